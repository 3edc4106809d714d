"""Going on from the newest checkpoint that verifies, at any number of ranks."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor

from pipeline.checkpoints import NEVER_FINISHED, Checkpoint, CheckpointManifest, complete_checkpoints
from pipeline.errors import InputError
from pipeline.optimizer_slices import KEYS, Slice, adopt, local_slices, trained_shapes
from pipeline.slice_files import SliceReader

WHAT = {
    "recipe_sha256": "other stage settings",
    "base_sha256": "another language expert",
    "row_index_sha256": "another selection of rows",
}


@dataclass(frozen=True)
class Identity:
    """What must be the same for a run to go on: see `CheckpointManifest`."""

    recipe_sha256: str
    base_sha256: str
    row_index_sha256: str


def resume(engine: Any, url: str, identity: Identity, tell: Callable[[str], None]) -> CheckpointManifest | None:
    """Loads the newest checkpoint of this stage that verifies, if any. Every rank calls it.

    Each rank reads what it holds itself, whatever ranks wrote it; all of them take the checkpoint, or none does.

    Args:
        engine: DeepSpeed's.
        url: folder or URL of the stage's checkpoints.
        identity: of the run.
        tell: on the first rank, gets lines on what was taken, and why others were passed over.

    Returns:
        What the checkpoint says of itself; None where there is none.

    Raises:
        InputError: the newest complete checkpoint is of another recipe, base, or selection of rows; or there are
            checkpoints, but none that can be used.
    """
    first, world_size = dist.get_rank() == 0, dist.get_world_size()
    passed_over: list[str] = []
    candidates = complete_checkpoints(url, passed_over)
    taken = None
    while taken is None:
        offered = [next(candidates, None) if first else None]
        dist.broadcast_object_list(offered, src=0)
        checkpoint = offered[0]
        if checkpoint is None:
            break
        _check(checkpoint, identity)
        slices, problem = local_slices(engine), None
        try:
            tensors = _read(checkpoint, slices, trained_shapes(engine))
        except InputError as error:
            problem = str(error)
        problems: list[str | None] = [None] * world_size
        dist.all_gather_object(problems, problem)
        damage = next(filter(None, problems), None)
        if damage:
            passed_over.append(f"{checkpoint.name}: {damage}")
            continue
        for each, values in zip(slices, tensors, strict=True):
            for key, value in zip(KEYS, values, strict=True):
                each.tensors[key].copy_(value)
        adopt(engine, checkpoint.manifest.optimizer_steps)
        taken = checkpoint
    unusable = [[reason for reason in passed_over if NEVER_FINISHED not in reason]]
    dist.broadcast_object_list(unusable, src=0)
    if taken is None and unusable[0]:
        raise InputError(
            f"no checkpoint in {url!r} can be used: {'; '.join(unusable[0])}. Mend the storage and run again, "
            "or move them away to start anew"
        )
    if first:
        _tell(tell, taken, world_size, passed_over)
    return taken.manifest if taken else None


def _tell(tell: Callable[[str], None], taken: Checkpoint | None, world_size: int, passed_over: list[str]) -> None:
    for reason in passed_over:
        tell(f"passed over checkpoint {reason}")
    if taken:
        saved_by = taken.manifest.world_size
        others = f", which {saved_by} workers wrote; now there are {world_size}" if saved_by != world_size else ""
        tell(f"goes on from step {taken.manifest.step} ({taken.name}){others}")


def _check(checkpoint: Checkpoint, identity: Identity) -> None:
    for name, wanted in asdict(identity).items():
        if getattr(checkpoint.manifest, name) != wanted:
            raise InputError(
                f"checkpoint {str(checkpoint)!r} was made with {WHAT[name]}; undo the change, or choose another --root"
            )


def _read(checkpoint: Checkpoint, slices: list[Slice], shapes: dict[str, tuple[int, ...]]) -> list[list[Tensor]]:
    """The slices' tensors in the order of `KEYS`; nothing is changed yet."""
    if checkpoint.manifest.shapes != shapes:
        raise InputError("its parameters are of other names or shapes than the model's")
    reader = SliceReader(checkpoint)
    return [[reader.read(each.name, key, each.start, each.count) for key in KEYS] for each in slices]
