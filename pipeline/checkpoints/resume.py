"""Resumes from the newest checkpoint that passes verification, with any number of ranks."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch.distributed as dist
from torch import Tensor

from pipeline.checkpoints.engine import PartitionedEngine
from pipeline.checkpoints.identity import Identity, check_identity
from pipeline.checkpoints.manifest import NEVER_FINISHED, Checkpoint, CheckpointManifest, complete_checkpoints
from pipeline.checkpoints.optimizer_slices import Slice, apply_master_weights, local_slices, trained_shapes
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.errors import InputError
from pipeline.runtime.agreement import agree_on_problem, from_first_rank


@dataclass(frozen=True)
class Resumed:
    """The outcome of `resume`.

    Attributes:
        manifest: the manifest of the checkpoint that was loaded, or None.
        damaged: names of finished checkpoints that could not be read; on the first rank only.
    """

    manifest: CheckpointManifest | None
    damaged: frozenset[str]


def resume(
    engine: PartitionedEngine,
    url: str,
    identity: Identity,
    log: Callable[[str], None],
    at_most_step: int | None = None,
    extends_sha256: str = "",
) -> Resumed:
    """Loads the newest checkpoint of this stage that passes verification, if any. Every rank calls it.

    Each rank reads only its own slices, from whichever ranks' files hold them. All ranks load the checkpoint, or none.

    Args:
        engine: the DeepSpeed engine.
        url: folder or URL of the stage's checkpoints.
        identity: the identity of the run.
        log: on the first rank, receives lines on the checkpoint that was loaded and on those that were skipped.
        at_most_step: the latest step that may be loaded, for a rollback: later checkpoints belong to another attempt,
            and those saved during skipped steps hold the weights that the rollback discards. None takes the newest.
        extends_sha256: see `check_identity`.

    Raises:
        InputError: the newest complete checkpoint is of another recipe, base, or selection of rows; or there are
            checkpoints, but none that can be used.
    """
    first, world_size = dist.get_rank() == 0, dist.get_world_size()
    passed_over: list[str] = []
    candidates = complete_checkpoints(url, passed_over)
    taken = None
    while taken is None:
        checkpoint = from_first_rank(next(candidates, None) if first else None)
        if checkpoint is None:
            break
        manifest = checkpoint.manifest
        if at_most_step is not None and (manifest.step > at_most_step or manifest.guard.get("in_row")):
            continue
        check_identity(checkpoint, asdict(identity), extends_sha256)
        if damage := _load(engine, checkpoint):
            passed_over.append(f"{checkpoint.name}: {damage}")
            continue
        apply_master_weights(engine, checkpoint.manifest.optimizer_steps)
        taken = checkpoint
    unusable = from_first_rank([reason for reason in passed_over if NEVER_FINISHED not in reason])
    if taken is None and unusable:
        raise InputError(
            f"no checkpoint in {url!r} can be used: {'; '.join(unusable)}. Repair the storage and run again, "
            "or move them away to start anew"
        )
    if first:
        _log(log, taken, world_size, passed_over)
    damaged = frozenset(reason.split(": ", 1)[0] for reason in unusable)
    return Resumed(taken.manifest if taken else None, damaged)


def start_from(engine: PartitionedEngine, checkpoint: Checkpoint, base_sha256: str) -> None:
    """Loads only the weights of another stage's checkpoint. Every rank calls it, and reads only its own slices.

    Raises:
        InputError: the checkpoint is damaged, or of another model or language expert.
    """
    if checkpoint.manifest.base_sha256 != base_sha256:
        raise InputError(
            f"checkpoint {str(checkpoint)!r} was trained on another language expert than the one that is loaded; train "
            "the previous stage again, or put its language expert back"
        )
    if damage := _load(engine, checkpoint, weights_alone=True):
        raise InputError(
            f"checkpoint {str(checkpoint)!r} cannot be used: {damage}; move it away and run the previous stage "
            "again, which resumes from an earlier checkpoint, or name another with --initial-checkpoint"
        )
    apply_master_weights(engine, 0)


def _log(log: Callable[[str], None], taken: Checkpoint | None, world_size: int, passed_over: list[str]) -> None:
    for reason in passed_over:
        log(f"passed over checkpoint {reason}")
    if taken:
        saved_by = taken.manifest.world_size
        others = f", which {saved_by} workers wrote; now there are {world_size}" if saved_by != world_size else ""
        log(f"resumes from step {taken.manifest.step} ({taken.name}){others}")


def _load(engine: PartitionedEngine, checkpoint: Checkpoint, weights_alone: bool = False) -> str | None:
    """Copies the checkpoint's weights, or all its tensors, into this rank's slices if every rank could read its own.

    Otherwise changes nothing and returns the reason.
    """
    slices, problem = local_slices(engine), None
    tensors: list[dict[str, Tensor]] = []
    try:
        tensors = _read(checkpoint, slices, trained_shapes(engine), weights_alone)
    except InputError as error:
        problem = str(error)
    damage = agree_on_problem(problem)
    if damage is None:
        for each, values in zip(slices, tensors, strict=True):
            for key, value in values.items():
                each.tensors[key].copy_(value)
    return damage


def _read(
    checkpoint: Checkpoint, slices: list[Slice], shapes: dict[str, tuple[int, ...]], weights_alone: bool
) -> list[dict[str, Tensor]]:
    """Returns the weights, or all tensors, of each slice by key, and changes nothing."""
    saved = checkpoint.manifest.shapes
    if other := sorted(saved.keys() ^ shapes.keys()):
        raise InputError(f"it is of another model: {len(other)} parameters differ ({other[0]}, ...)")
    if other := [name for name, shape in shapes.items() if saved[name] != shape]:
        raise InputError(
            f"it is of another model: {other[0]} has shape {saved[other[0]]}, the model's is {shapes[other[0]]}"
        )
    reader = SliceReader(checkpoint)
    return [
        {
            key: reader.read(each.name, key, each.start, each.count)
            for key in each.tensors
            if key == "master" or not weights_alone
        }
        for each in slices
    ]
