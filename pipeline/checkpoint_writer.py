"""Writes a run's checkpoints while it trains on."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from pipeline.checkpoints import (
    CheckpointFile,
    CheckpointManifest,
    checkpoint_file,
    new_folder_name,
    rank_file,
    remove_old,
    write_manifest,
)
from pipeline.errors import InputError
from pipeline.optimizer_slices import KEYS, Slice, local_slices
from pipeline.run_owner import RunOwner
from pipeline.slice_files import write_slices
from tokenization.errors import InputError as StorageError
from tokenization.storage import open_storage

POLL_S = 0.2
"""Between two looks at whether the other ranks have written."""


@dataclass(frozen=True)
class Kept:
    """Which checkpoints stay: the last `last`, and those of every `every_steps`-th step, 0 for none of them."""

    last: int
    every_steps: int


class CheckpointWriter:
    """One rank's part of the checkpoints of a stage.

    `save` copies what is to be written and returns; a thread writes the copy. On the first rank another one waits until
    all ranks have written and closes the checkpoint with its manifest. A checkpoint that cannot be written never
    counts, and is told of; training goes on, to the next one.

    Args:
        url: folder or URL of the checkpoints.
        kept: which of them stay.
        tell: on the first rank, gets a line about every checkpoint that could not be written.

    Raises:
        InputError: see `RunOwner`.
    """

    def __init__(self, url: str, kept: Kept, tell: Callable[[str], None]) -> None:
        self._url, self._kept, self._tell, self._storage = url, kept, tell, open_storage(url)
        self._rank, self._threads = dist.get_rank(), ThreadPoolExecutor(2, thread_name_prefix="checkpoint")
        self._part: Future[None] | None = None
        self._closing: Future[None] | None = None
        self._give_up, self._name, self._taken_over = threading.Event(), "", ""
        self._copies: dict[str, Slice] = {}
        self._owner = RunOwner(url) if self._rank == 0 else None

    def save(self, engine: Any, manifest: CheckpointManifest) -> float:
        """Begins a checkpoint whose manifest still lacks its files. Every rank calls it.

        Returns:
            Seconds that training stood still: for the checkpoint before, where it is not written yet, and for the copy.
        """
        started = time.monotonic()
        self.wait()
        name = [new_folder_name(manifest.step)]
        dist.broadcast_object_list(name, src=0)
        self._name = name[0]
        slices = self._copied(local_slices(engine))
        self._give_up.clear()
        self._part = self._threads.submit(self._write_part, self._name, slices)
        if self._rank == 0:
            self._closing = self._threads.submit(self._close, self._name, manifest)
        return time.monotonic() - started

    def wait(self) -> bool:
        """Waits for the checkpoint that is being written, if any. Every rank calls it.

        Returns:
            Whether it counts; True where there is none.

        Raises:
            InputError: another attempt has taken the checkpoints over.
        """
        if self._part is None:
            return True
        problems: list[str | None] = [None] * dist.get_world_size()
        own = _problem(self._part)
        dist.all_gather_object(problems, own and f"{rank_file(self._rank)}: {own}")
        if any(problems):
            self._give_up.set()
        if self._closing is not None:
            problems.append(_problem(self._closing))
        self._part = self._closing = None
        found = [next(filter(None, problems), None), self._taken_over]
        dist.broadcast_object_list(found, src=0)
        if found[1]:
            raise InputError(found[1])
        if found[0] and self._rank == 0:
            self._tell(f"checkpoint {self._url}/{self._name} could not be written and does not count: {found[0]}")
        return not found[0]

    def _copied(self, slices: list[Slice]) -> list[Slice]:
        """The slices in host memory of their own, the same each time."""
        for each in slices:
            if each.name not in self._copies:
                pinned = each.tensors["master"].is_cuda
                memory = {key: torch.empty(each.count, pin_memory=pinned) for key in KEYS}
                self._copies[each.name] = replace(each, tensors=memory)
            for key in KEYS:
                self._copies[each.name].tensors[key].copy_(each.tensors[key], non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return [self._copies[each.name] for each in slices]

    def _write_part(self, name: str, slices: list[Slice]) -> None:
        file, record = f"{name}/{rank_file(self._rank)}", {}
        self._storage.write(file, lambda path: record.update(asdict(write_slices(path, slices))))
        self._storage.write(_record_of(name, self._rank), lambda path: path.write_text(json.dumps(record)))

    def _close(self, name: str, manifest: CheckpointManifest) -> None:
        assert self._owner is not None
        files: dict[str, CheckpointFile] = {}
        while len(files) < manifest.world_size:
            rank = len(files)
            if self._storage.exists(_record_of(name, rank)):
                with self._storage.local(_record_of(name, rank)) as path:
                    files[rank_file(rank)] = checkpoint_file(json.loads(path.read_text()))
            elif self._give_up.wait(POLL_S):
                return
        try:
            self._owner.check()
        except InputError as error:
            self._taken_over = str(error)
            return
        write_manifest(self._storage, name, replace(manifest, files=files))
        try:
            remove_old(self._url, name, self._kept.last, self._kept.every_steps)
        except (OSError, StorageError) as error:  # the new one counts all the same
            self._tell(f"older checkpoints in {self._url} could not be removed: {error}")


def _record_of(name: str, rank: int) -> str:
    """Where a rank says what it has written."""
    return f"{name}/{rank_file(rank)}.json"


def _problem(task: Future[None]) -> str | None:
    """Waits for the end of a task; what was wrong, if anything."""
    error = task.exception()
    return f"{type(error).__name__}: {error}" if error else None
