"""A checkpoint counts only when it is whole."""

import pytest

from pipeline.checkpoints import finished_checkpoint, new_folder_name, newest_verified, remove_all_but, write_manifest
from pipeline.errors import InputError

FIELDS = dict(samples=0, world_size=2, base_sha256="b", recipe_sha256="r", row_index_sha256="i")


def make(checkpoints, step, finished=False, manifest=True):
    folder = checkpoints / new_folder_name(step)
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "part.bin").write_bytes(bytes([step % 256]) * 1000)
    if manifest:
        write_manifest(folder, step=step, finished=finished, **FIELDS)
    return folder


def test_resume_falls_back_to_the_newest_that_verifies_and_says_why(tmp_path):
    good, changed, cut, missing = (make(tmp_path, step) for step in (10, 20, 30, 40))
    make(tmp_path, 50, manifest=False)
    (changed / "engine" / "part.bin").write_bytes(b"x" * 1000)
    (cut / "engine" / "part.bin").write_bytes(b"x")
    (missing / "engine" / "part.bin").unlink()
    folder, manifest, passed_over = newest_verified(tmp_path)
    assert folder == good and manifest.step == 10
    assert [reason.split(": ")[1] for reason in passed_over] == [
        "no manifest.json, it was never finished",
        "engine/part.bin is missing",
        "engine/part.bin has 1 bytes, not 1000",
        "engine/part.bin has changed",
    ]


def test_what_was_passed_over_does_not_push_out_what_is_written_after_it(tmp_path):
    damaged = [make(tmp_path, step) for step in (20, 30)]
    make(tmp_path, 5, manifest=False)
    kept = [make(tmp_path, step) for step in (9, 10)]
    remove_all_but(kept[-1], 2)
    assert sorted(tmp_path.iterdir()) == kept
    assert not any(folder.exists() for folder in damaged)


def test_two_attempts_never_share_a_folder():
    assert new_folder_name(7) != new_folder_name(7)


def test_a_stage_that_did_not_finish_is_no_start_for_the_next(tmp_path):
    with pytest.raises(InputError, match="has no checkpoint"):
        finished_checkpoint(tmp_path)
    make(tmp_path / "checkpoints", 10)
    with pytest.raises(InputError, match="stopped at step 10.*--allow-unfinished"):
        finished_checkpoint(tmp_path)
    assert finished_checkpoint(tmp_path, allow_unfinished=True)[1].step == 10
    last = make(tmp_path / "checkpoints", 20, finished=True)
    assert finished_checkpoint(tmp_path)[0] == last


def test_a_checkpoint_named_by_itself_is_verified_too(tmp_path):
    folder = make(tmp_path, 20, finished=True)
    assert finished_checkpoint(folder) == (folder, newest_verified(tmp_path)[1])
    (folder / "engine" / "part.bin").write_bytes(b"x" * 1000)
    with pytest.raises(InputError, match="damaged: engine/part.bin has changed"):
        finished_checkpoint(folder)
