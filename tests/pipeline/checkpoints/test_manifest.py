"""A checkpoint counts only when it is whole, and only what was written is ever read of it."""

import hashlib
import json
import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import Qwen2ForCausalLM

from pipeline.benchmarks.checkpoint_metadata import benchmark_checkpoint
from pipeline.checkpoints import slice_files
from pipeline.checkpoints.manifest import (
    MANIFEST_FILE,
    complete_checkpoints,
    finished_checkpoint,
    new_folder_name,
    newest_complete,
    open_checkpoint,
    rank_file,
    write_manifest,
)
from pipeline.checkpoints.optimizer_slices import KEYS
from pipeline.checkpoints.owner import RunOwner
from pipeline.checkpoints.retention import RetentionPolicy, remove_old
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.config.benchmarks import CheckpointSettings
from pipeline.errors import InputError
from pipeline.model.loading import base_sha256, load_initial_model
from tests.support.checkpoints import SHAPES, make, values
from tests.support.trained_weights import trained_state
from tokenization.files.storage import Storage, open_storage


@pytest.mark.parametrize("wrote, reads", [(1, 1), (2, 2), (2, 1), (1, 2), (4, 3), (3, 4), (8, 3)])
@pytest.mark.parametrize("block_bytes", [64, 1000, 8 * 2**20])
def test_any_number_of_ranks_reads_what_any_number_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrote: int, reads: int, block_bytes: int
) -> None:
    monkeypatch.setattr("pipeline.checkpoints.manifest.BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(slice_files, "BLOCK_BYTES", block_bytes)
    url = str(tmp_path)
    reader = SliceReader(open_checkpoint(url, make(url, 3, world_size=wrote)))
    for name, shape in SHAPES.items():
        size = -(-math.prod(shape) // reads)
        for key in KEYS:
            for start in range(0, math.prod(shape), size):
                expected = values(name, key, 3)[start : start + size]
                assert torch.equal(reader.read(name, key, start, len(expected)), expected)


@pytest.mark.slow
def test_weights_come_back_in_their_shapes_from_a_store_that_fails_now_and_then(url: str) -> None:
    name = make(url, 5, finished=True)
    state = trained_state(finished_checkpoint(url))
    assert {each: tuple(tensor.shape) for each, tensor in state.items()} == {n[5:]: s for n, s in SHAPES.items()}
    assert torch.equal(state["c"].flatten(), values("mars.c", "master", 5))
    assert newest_complete(url).name == name


def test_a_manifest_is_written_as_the_dataclasses_are(tmp_path: Path) -> None:
    """Its hash names the checkpoint: the faster way must give the same text."""
    manifest = open_checkpoint(str(tmp_path), make(str(tmp_path), 3, world_size=4)).manifest
    assert json.dumps(manifest.as_object()) == json.dumps(asdict(manifest))


@pytest.mark.slow
def test_the_metadata_of_many_ranks_is_measured(url: str) -> None:
    figures = benchmark_checkpoint(CheckpointSettings(ranks=20, parameters=3, location=url))
    assert figures["objects"] == 41 and figures["read_over_share"] == 1.0
    assert newest_complete(url).manifest.world_size == 20


def test_a_rank_reads_its_own_part_and_not_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.checkpoints.manifest.BLOCK_BYTES", 256)
    monkeypatch.setattr(slice_files, "BLOCK_BYTES", 256)
    url = str(tmp_path)
    taken: list[tuple[str, int]] = []
    checkpoint = open_checkpoint(url, make(url, 3, world_size=4))
    storage = type(open_storage(url))
    real = storage.read

    def read(self: Storage, name: str, start: int, stop: int) -> bytes:
        taken.append((name, stop - start))
        return real(self, name, start, stop)

    monkeypatch.setattr(storage, "read", read)
    reader, size = SliceReader(checkpoint), 3000 // 2
    for key in KEYS:
        reader.read("mars.c", key, size, size)
    assert {name.split("/")[1] for name, _ in taken} == {rank_file(2), rank_file(3)}
    assert sum(count for _, count in taken) < 1.2 * 3 * 4 * size


@pytest.mark.slow
def test_resume_falls_back_to_the_newest_that_is_whole_and_says_why(url: str) -> None:
    good, cut, missing, open_one, unreadable = (make(url, step) for step in (10, 20, 30, 40, 50))
    storage = open_storage(url)
    storage.write(f"{cut}/{rank_file(0)}", lambda path: path.write_bytes(b"x"))
    storage.delete(f"{missing}/{rank_file(1)}")
    storage.delete(f"{open_one}/{MANIFEST_FILE}")
    storage.write(f"{unreadable}/{MANIFEST_FILE}", lambda path: path.write_text('{"step": 50'))
    passed_over: list[str] = []
    assert [checkpoint.name for checkpoint in complete_checkpoints(url, passed_over)] == [good]
    assert [reason.split(": ", 1)[1].split(":")[0] for reason in passed_over] == [
        "manifest.json is not readable",
        "no manifest.json, it was never finished",
        "rank-00001.safetensors is missing",
        "rank-00000.safetensors has 1 bytes, not " + str(open_checkpoint(url, good).manifest.files[rank_file(0)].size),
    ]


def test_one_changed_bit_is_found_where_it_is_read(tmp_path: Path) -> None:
    url = str(tmp_path)
    checkpoint = open_checkpoint(url, make(url, 3, finished=True))
    path = Path(url, checkpoint.name, rank_file(1))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="rank-00001.safetensors has changed since it was written"):
        SliceReader(checkpoint).whole("mars.c", "exp_avg_sq")
    with pytest.raises(InputError, match=r"checkpoint .* is damaged: .*rank-00001.* has changed"):
        trained_state(checkpoint)


def test_a_manifest_from_before_picture_positions_is_read_and_keeps_its_hash(tmp_path: Path) -> None:
    """Otherwise runs that began before could not go on."""
    url = str(tmp_path)
    path = tmp_path / make(url, 15) / "manifest.json"
    now = newest_complete(url).manifest
    values = json.loads(path.read_text())
    assert "picture_position_std" not in values, "a value of 0 is left out, as earlier code does"
    path.write_text(json.dumps(values))
    before = newest_complete(url).manifest
    assert before == now and before.picture_position_std == 0
    recorded = values.pop("sha256")
    rest = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert before.sha256() == recorded == hashlib.sha256(rest.encode()).hexdigest()
    assert replace(now, picture_position_std=0.05).sha256() != now.sha256()


def test_a_manifest_that_lacks_a_part_gives_no_weights(tmp_path: Path) -> None:
    url = str(tmp_path)
    name = make(url, 3)
    files = dict(open_checkpoint(url, name).manifest.files)
    files.pop(rank_file(0))
    write_manifest(open_storage(url), name, replace(open_checkpoint(url, name).manifest, files=files))
    with pytest.raises(InputError, match="mars.a has only 31 of the elements 0 to 63"):
        SliceReader(open_checkpoint(url, name)).whole("mars.a")


@pytest.mark.slow
def test_the_last_ones_and_every_so_manieth_stay(url: str) -> None:
    names = {step: make(url, step) for step in (10, 20, 30, 40, 50)}
    never_finished, later = make(url, 45, manifest=False), make(url, 60)
    known = {*names.values(), never_finished, later}
    remove_old(url, names[50], RetentionPolicy(9), known)
    assert {name.split("/")[0] for name in open_storage(url).names()} == {*names.values(), later}, "there are only five"
    remove_old(url, names[50], RetentionPolicy(2, every_steps=20), known)
    left = {name.split("/")[0] for name in open_storage(url).names()}
    assert left == {names[20], names[40], names[50], later}, "a later one may have been out of reach for a while"
    assert never_finished not in left


def test_what_is_still_awaited_stays_besides(tmp_path: Path) -> None:
    names = [make(str(tmp_path), step) for step in (1, 2, 3, 4)]
    kept = RetentionPolicy(1, awaited=lambda finished: {names[1]} & set(finished))
    remove_old(str(tmp_path), names[-1], kept, names)
    assert {path.name for path in tmp_path.glob("step-*")} == {names[1], names[3]}


def test_what_another_attempt_has_begun_since_is_not_this_ones_to_remove(tmp_path: Path) -> None:
    url = str(tmp_path)
    own = {make(url, step) for step in (10, 20, 30)}
    successor = make(url, 20, manifest=False)
    remove_old(url, max(own), RetentionPolicy(1), own)
    assert {path.name for path in tmp_path.iterdir()} == {max(own), successor}


def test_damaged_checkpoints_do_not_push_out_the_good_ones(tmp_path: Path) -> None:
    """With two to keep, a damaged one in between would leave only the newest."""
    url = str(tmp_path)
    names = {step: make(url, step) for step in (10, 20, 30, 40)}
    remove_old(url, names[40], RetentionPolicy(2), set(names.values()), damaged={names[20], names[30]})
    assert {path.name for path in tmp_path.iterdir()} == set(names.values()), "the damage may be an outage"
    names[50] = make(url, 50)
    remove_old(url, names[50], RetentionPolicy(2), set(names.values()), damaged={names[20], names[30]})
    assert {path.name for path in tmp_path.iterdir()} == {names[40], names[50]}


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda record: record.update(step=31), "has changed since it was written"),
        (lambda record: record["guard"].update(in_row=1), "has changed since it was written"),
        (lambda record: record["files"][rank_file(0)]["slices"]["mars.a"].update(places=[8]), "has changed"),
        (lambda record: record.pop("sha256"), "KeyError: 'sha256'"),
        (lambda record: record.update(files=[]), "not readable: AttributeError"),
        (lambda record: record.update(shapes=3), "not readable: AttributeError"),
    ],
)
def test_a_manifest_that_was_altered_is_passed_over_whatever_was_altered(
    tmp_path: Path, change: Callable, said: str
) -> None:
    url = str(tmp_path)
    good, bad = make(url, 20), make(url, 30)
    manifest = Path(url, bad, MANIFEST_FILE)
    record = json.loads(manifest.read_text())
    change(record)
    manifest.write_text(json.dumps(record))
    passed_over: list[str] = []
    assert [checkpoint.name for checkpoint in complete_checkpoints(url, passed_over)] == [good]
    assert said in passed_over[0]


def test_a_checkpoint_under_another_ones_name_is_passed_over(tmp_path: Path) -> None:
    name = make(str(tmp_path), 20)
    (tmp_path / name).rename(tmp_path / name.replace("20", "90", 1))
    (tmp_path / "step-x").mkdir()
    (tmp_path / "step-x" / "notes").write_text("somebody's")
    passed_over: list[str] = []
    assert not list(complete_checkpoints(str(tmp_path), passed_over))
    assert "is of step 20" in passed_over[0]


def test_two_attempts_never_share_a_folder() -> None:
    assert new_folder_name(7) != new_folder_name(7)


def test_a_stage_that_did_not_finish_is_no_start_for_the_next(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no checkpoint"):
        finished_checkpoint(tmp_path)
    make(str(tmp_path / "checkpoints"), 10)
    with pytest.raises(InputError, match=r"stopped at step 10.*--allow-unfinished"):
        finished_checkpoint(tmp_path)
    assert finished_checkpoint(tmp_path, allow_unfinished=True).manifest.step == 10
    last = make(str(tmp_path / "checkpoints"), 20, finished=True)
    for place in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / last):
        assert finished_checkpoint(place).name == last
    (tmp_path / "checkpoints" / last / rank_file(0)).unlink()
    with pytest.raises(InputError, match=r"damaged: rank-00000.safetensors is missing; name another"):
        finished_checkpoint(tmp_path / "checkpoints" / last)


@pytest.mark.slow
def test_who_starts_takes_the_checkpoints_over_and_the_one_before_finds_out(url: str) -> None:
    first = RunOwner(url)
    assert first.loss() == ""
    second = RunOwner(url)
    assert second.loss() == ""
    assert re.search("another attempt has taken over .* process", first.loss())


@pytest.mark.slow
def test_of_those_who_start_at_once_one_gets_the_checkpoints(url: str) -> None:
    together = threading.Barrier(8)

    def start(_: int) -> RunOwner | None:
        together.wait()
        try:
            return RunOwner(url)
        except InputError as error:
            assert "has just taken" in str(error)
            return None

    with ThreadPoolExecutor(8) as pool:
        owners = [owner for owner in pool.map(start, range(8)) if owner]
    # One that came late may have taken over from the first, as it may.
    still = [owner for owner in owners if not owner.loss()]
    assert len(still) == 1


@pytest.mark.slow
def test_the_language_experts_hash_is_its_own_whatever_dtype_it_is_loaded_in(
    tmp_path: Path, base: Qwen2ForCausalLM
) -> None:
    """A stage that trains in float32 is exported in bfloat16."""
    base.to(torch.bfloat16).save_pretrained(tmp_path)
    hashes = {base_sha256(load_initial_model(tmp_path, 24, dtype)) for dtype in (torch.bfloat16, torch.float32)}
    assert len(hashes) == 1
    with torch.no_grad():
        base.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    base.save_pretrained(tmp_path)
    assert base_sha256(load_initial_model(tmp_path, 24, torch.float32)) not in hashes
