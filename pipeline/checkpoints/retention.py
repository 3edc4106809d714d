"""Deletes old checkpoints."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pipeline.checkpoints.manifest import MANIFEST_FILE, by_step, folders_of, step_of
from tokenization.files.storage import open_storage


@dataclass(frozen=True)
class RetentionPolicy:
    """The checkpoints to keep.

    Attributes:
        last: number of the last ones.
        every_steps: those whose step is a multiple of this, too; 0 for none.
        awaited: chooses among the finished ones those that somebody has yet to read, which are kept, too.
    """

    last: int
    every_steps: int = 0
    awaited: Callable[[list[str]], Collection[str]] = lambda finished: ()


def remove_old(
    url: str, newest: str, kept: RetentionPolicy, removable: Collection[str], damaged: Collection[str] = frozenset()
) -> None:
    """Deletes the checkpoints that the policy does not keep.

    Unfinished checkpoints of later steps are deleted, too. A finished one of a later step is kept: it may have been
    unreachable only for a while.

    Args:
        url: folder or URL of the checkpoints.
        newest: the checkpoint that was just written.
        kept: the policy that decides which checkpoints are kept.
        removable: only these may be deleted. Newer folders belong to another attempt.
        damaged: checkpoints that could not be read. They do not count among the last ones, and are deleted once all of
            those are newer.
    """
    storage = open_storage(url)
    names = set(storage.names())
    folders = sorted(folders_of(names), key=by_step)
    step = step_of(newest)
    finished = [name for name in folders if f"{name}/{MANIFEST_FILE}" in names]
    closed = [name for name in finished if step_of(name) < step]
    sound = [name for name in closed if name not in damaged]
    last = [*sound[max(0, len(sound) - (kept.last - 1)) :], newest]
    oldest = step_of(last[0]) if len(last) >= kept.last else -1
    stay = {
        *last,
        *(name for name in finished if step_of(name) > step),
        *(name for name in closed if name in damaged and step_of(name) >= oldest),
        *(name for name in sound if kept.every_steps and step_of(name) % kept.every_steps == 0),
        *kept.awaited(sound),
    }
    for name in folders:
        if name not in stay and name in removable:
            storage.delete_folder(name)
