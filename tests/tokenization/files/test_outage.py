"""A service that is away for a while is waited for, and what was being written is there once."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.faulty_server import ServerOf
from tests.support.ports import free_port
from tests.support.s3 import BUCKET, FaultyS3
from tokenization import waiting
from tokenization.errors import OutageError
from tokenization.files import azure_container, gcs_bucket, s3_bucket
from tokenization.files.object_folder import ObjectFolder
from tokenization.files.s3_bucket import S3Bucket
from tokenization.files.storage import open_storage
from tokenization.patience import OUTAGE_VARIABLE
from tokenization.waiting import Outlet, Wait

AWAY_S = 2.0


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(Outlet, "say", lines.append)
    monkeypatch.setattr(waiting, "FIRST_S", 0.5)
    monkeypatch.setattr(s3_bucket, "ATTEMPTS", 1)
    monkeypatch.setattr(azure_container, "ATTEMPTS", 1)
    monkeypatch.setattr(gcs_bucket, "RETRIED_S", 0.5)
    monkeypatch.setenv(OUTAGE_VARIABLE, "30")
    return lines


def write(storage: ObjectFolder) -> bool:
    storage.write("a.json", partial(Path.write_text, data="new"))
    return storage.text("a.json") == "new"


def read(storage: ObjectFolder) -> bool:
    with storage.local("there.json") as path:
        return path.read_text() == "there" and storage.read("there.json", 1, 3) == b"he"


def take(storage: ObjectFolder) -> bool:
    return storage.swap("owner.txt", None, "me") and storage.text("owner.txt") == "me"


def delete(storage: ObjectFolder) -> bool:
    storage.delete_folder("folder")
    return storage.names() == ["there.json"] and storage.size("there.json") == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "act"),
    [*(("s3", act) for act in (write, read, take, delete)), ("gs", take), ("gs", read), ("az", write), ("az", delete)],
)
def test_a_service_that_comes_back_is_waited_for_and_the_wait_is_told(
    scheme: str, server_of: ServerOf, said: list[str], act: Callable[[ObjectFolder], bool]
) -> None:
    server = server_of(scheme)
    storage = open_storage(f"{scheme}://{BUCKET}/x")
    assert isinstance(storage, ObjectFolder)
    storage.write("there.json", partial(Path.write_text, data="there"))
    storage.write("folder/a", partial(Path.write_text, data="a"))
    server.down = True
    assert storage.absence()
    timer = threading.Timer(AWAY_S, setattr, (server, "down", False))
    timer.start()
    started = time.monotonic()
    assert act(storage)
    assert time.monotonic() - started > AWAY_S / 2 and server.turned_away > 2
    assert said and f"waiting for {scheme}://{BUCKET}/x, at most 30 s: " in said[0], said
    assert not storage.absence()


@pytest.mark.slow
def test_a_service_that_stays_away_is_given_up_after_the_limit(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OUTAGE_VARIABLE, "1")
    s3.down = True
    with pytest.raises(OutageError, match=r"no answer for 1 s"):
        write(ObjectFolder(S3Bucket(BUCKET), "x"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(OutageError, match=r"Could not connect.*AWS_ENDPOINT_URL.*no answer for 1 s"):
        read(ObjectFolder(S3Bucket(BUCKET), "x"))


@pytest.mark.slow
def test_a_conditional_write_whose_answer_is_lost_is_our_own(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an attempt would be told that another one, which is itself, had taken its checkpoints."""
    storage, real = ObjectFolder(S3Bucket(BUCKET), "x"), S3Bucket.put_if
    lost: list[bool] = []

    def put_and_lose(self: S3Bucket, *how: object) -> bool:
        done = real(self, *how)  # type: ignore[arg-type]
        if not lost:
            lost.append(done)
            raise OutageError("the answer is lost")
        return done

    monkeypatch.setattr(S3Bucket, "put_if", put_and_lose)
    assert storage.swap("owner.txt", None, "me")
    assert lost == [True] and not storage.swap("owner.txt", None, "you")


def test_waits_are_told_after_a_while_and_then_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    clock = [100.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(waiting, "FIRST_S", 5.0)
    wait = Wait(told.append)
    for seconds in range(130):
        clock[0] = 100.0 + seconds
        wait.still(f"a lock at {seconds}")
    assert told == [
        "waiting for a lock at 5",
        "waiting for a lock at 65 (1 min so far)",
        "waiting for a lock at 125 (2 min so far)",
    ]
    wait.over()
    wait.still("another")
    assert len(told) == 3, "a new wait begins anew"
