"""Every error of the project ends a job with the exit code that its kind has."""

import pickle
from pathlib import Path

import pytest

import pipeline.errors
import tokenization.errors
from jobs.common.exit_codes import OURS, ExitCode, exit_code_of
from pipeline.checkpoints.manifest import newest_complete
from pipeline.errors import InputError, OutageError
from tokenization.files.local_folder import LocalFolder


def test_there_is_one_input_error() -> None:
    assert pipeline.errors.InputError is tokenization.errors.InputError


@pytest.mark.parametrize("kind", [InputError, OutageError])
def test_bad_input_and_a_storage_that_does_not_answer_end_a_job_with_the_code_for_input(kind: type[Exception]) -> None:
    error = pickle.loads(pickle.dumps(kind("what was wrong")))
    assert str(error) == "what was wrong" and isinstance(error, OURS)
    assert exit_code_of(error) is ExitCode.INPUT


def test_an_outage_does_not_make_a_checkpoint_count_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step-00000001-00000000").mkdir()
    (tmp_path / "step-00000001-00000000" / "manifest.json").write_text("{}")

    def unanswered(self: LocalFolder, name: str) -> None:
        raise OutageError("503 Slow Down")

    assert newest_complete(str(tmp_path)) is None
    monkeypatch.setattr(LocalFolder, "local", unanswered)
    with pytest.raises(OutageError):
        newest_complete(str(tmp_path))
