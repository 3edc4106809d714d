"""Folders that are not shared, do not lock, are full, or are slow for one node are found."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.preflight import storage
from pipeline.preflight.finding import Verdict
from pipeline.preflight.folders import Folder, judge_writes
from pipeline.preflight.nodes import Answers
from pipeline.preflight.storage import Write
from tests.support.faulty_server import ServerOf
from tests.support.preflight import node, verdicts
from tests.support.s3 import BUCKET, FaultyS3
from tokenization.files.s3_bucket import S3Bucket
from tokenization.files.storage import open_storage

FIRST, SECOND = node("first"), node("second")


def test_a_node_sees_what_the_driver_wrote_and_answers(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path), storage.TOKEN, "42")
    seen_after = storage.see_and_answer(str(tmp_path), "42", "me")
    assert seen_after is not None and seen_after < 1
    assert storage.wait_for_text(str(tmp_path), storage.seen_name("me")) == "42"


def test_a_node_with_a_folder_of_its_own_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "VISIBLE_WITHIN_S", 0.0)
    monkeypatch.setattr(storage.wait_for_text, "__defaults__", (0.0,))
    assert storage.see_and_answer(str(tmp_path), "42", "me") is None
    storage.write_text(str(tmp_path), storage.TOKEN, "of an earlier check")
    assert storage.see_and_answer(str(tmp_path), "42", "me") is None
    assert storage.wait_for_text(str(tmp_path), storage.seen_name("me"), 0.0) is None


def test_one_of_many_becomes_the_owner(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda number: storage.take_ownership(str(tmp_path), str(number)), range(8)))
    assert claimed.count(True) == 1
    assert storage.wait_for_text(str(tmp_path), storage.OWNER) == str(claimed.index(True))


def test_a_lock_that_somebody_holds_is_not_free(tmp_path: Path) -> None:
    url = str(tmp_path)
    holder = threading.Thread(target=storage.hold_lock, args=(url,))
    holder.start()
    assert storage.wait_for_text(url, storage.HELD) == "held"
    assert not storage.lock_is_free(url)
    storage.write_text(url, storage.RELEASE, "")
    holder.join(10)
    assert storage.lock_is_free(url)


def test_a_write_is_measured_and_leaves_nothing(tmp_path: Path) -> None:
    assert storage.measure_write(str(tmp_path), "me", 8 * 2**20).bytes_per_s > 0
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, name: str, fill: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tokenization.files.local_folder.LocalFolder.write", full)
    assert storage.measure_write(str(tmp_path), "me", 1) == Write(0.0, "OSError: No space left on device")


def test_a_node_that_writes_far_slower_than_the_others_is_named() -> None:
    rates = Answers({FIRST: Write(900e6), SECOND: Write(200e6)}, {})
    found = judge_writes(Folder("run", "/shared"), rates)
    what = found[0].what
    assert verdicts(found) == {(what, "first"): Verdict.OK, (what, "second"): Verdict.WARNING}
    assert "900 MB/s" in found[1].expected and found[1].remedy


def test_a_full_disk_and_a_node_without_an_answer_fail() -> None:
    rates = Answers({FIRST: Write(0.0, "OSError: No space left on device")}, {SECOND: "no answer within 60 s"})
    found = judge_writes(Folder("run", "/shared"), rates)
    assert {finding.verdict for finding in found} == {Verdict.FAILED} and len(found) == 2


def test_a_file_system_has_no_conditional_writes(tmp_path: Path) -> None:
    assert storage.refuses_conditional_writes(str(tmp_path)) is None


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_bucket_refuses_writes_whose_condition_does_not_hold(scheme: str, server_of: ServerOf) -> None:
    server_of(scheme)
    assert storage.refuses_conditional_writes(f"{scheme}://{BUCKET}/run") is True
    assert open_storage(f"{scheme}://{BUCKET}").names(hidden=True) == [], "nothing is left behind"


@pytest.mark.slow
def test_a_service_that_ignores_the_condition_is_found(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    def unconditional(self: S3Bucket, key: str, content: bytes, tag: str | None) -> bool:
        s3.client().put_object(Bucket=self.bucket, Key=key, Body=content)
        return True

    monkeypatch.setattr(S3Bucket, "put_if", unconditional)
    assert storage.refuses_conditional_writes(f"s3://{BUCKET}/run") is False
