"""The values that must be unchanged for a run to resume from a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.checkpoints.manifest import Checkpoint
from pipeline.errors import InputError

WHAT = {
    "recipe_sha256": "other stage settings",
    "base_sha256": "another language expert",
    "row_index_sha256": "another selection of rows, or rows of other content",
    "initial_sha256": "another checkpoint to start from",
}


@dataclass(frozen=True)
class Identity:
    """The values that must be unchanged for a run to resume: see `CheckpointManifest`."""

    recipe_sha256: str
    base_sha256: str
    row_index_sha256: str
    initial_sha256: str


def check_identity(checkpoint: Checkpoint, values: Mapping[str, str], extends_sha256: str = "") -> None:
    """Checks a checkpoint against some or all values of an `Identity`, by their names.

    Args:
        checkpoint: the checkpoint.
        values: what it must have.
        extends_sha256: what a finished checkpoint may have in place of `recipe_sha256`; see `StageRun`.

    Raises:
        InputError: one of them differs.
    """
    for name, wanted in values.items():
        if name == "initial_sha256" and not wanted:
            continue  # it may have been deleted since: nothing more is read from it
        got = getattr(checkpoint.manifest, name)
        if name == "recipe_sha256" and checkpoint.manifest.finished and extends_sha256 and got == extends_sha256:
            continue
        if got != wanted:
            raise InputError(
                f"checkpoint {str(checkpoint)!r} was made with {WHAT[name]}; undo the change, or choose another --root"
            )
