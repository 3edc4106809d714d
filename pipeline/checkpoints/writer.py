"""Writes a run's checkpoints while training continues."""

import socket
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import torch
import torch.distributed as dist

from pipeline.checkpoints.engine import PartitionedEngine
from pipeline.checkpoints.manifest import (
    CheckpointFile,
    CheckpointManifest,
    folders_of,
    new_folder_name,
    rank_file,
    write_manifest,
)
from pipeline.checkpoints.optimizer_slices import Slice, local_slices
from pipeline.checkpoints.owner import RunOwner, owner_text
from pipeline.checkpoints.records import read_records, write_record
from pipeline.checkpoints.retention import RetentionPolicy, remove_old
from pipeline.checkpoints.slice_files import write_slices
from pipeline.errors import InputError
from pipeline.runtime.agreement import agree_on_problem, from_every_rank, from_first_rank
from tokenization.files.storage import open_storage

POLL_S = 0.2
"""Seconds between two checks of whether the other ranks have written."""


VISIBLE_WITHIN_S = 60.0
"""Seconds within which another rank's file must become visible; network file systems can take seconds to list it."""


class CheckpointWriter:
    """One rank's writer for the checkpoints of a stage.

    `save` copies the slices and returns; a thread writes the copy. On the first rank a second thread waits until all
    ranks have written, then writes the manifest. A checkpoint that cannot be written does not count and is logged;
    training continues.

    Args:
        url: folder or URL of the checkpoints.
        kept: the policy that decides which checkpoints are kept.
        log: on the first rank, receives a line about every checkpoint that could not be written.

    Attributes:
        problem: why the last checkpoint could not be written; empty if it was.

    Raises:
        InputError: on every rank: see `RunOwner`; or a rank sees another folder than the first one.
    """

    def __init__(self, url: str, kept: RetentionPolicy, log: Callable[[str], None]) -> None:
        self._url, self._kept, self._log, self._storage = url, kept, log, open_storage(url)
        self._rank, self._threads = dist.get_rank(), ThreadPoolExecutor(2, thread_name_prefix="checkpoint")
        self._part: Future[None] | None = None
        self._closing: Future[None] | None = None
        self._give_up, self._all_wrote = threading.Event(), threading.Event()
        self._name, self._taken_over, self.problem = "", "", ""
        self._copies: dict[str, Slice] = {}
        self._damaged: set[str] = set()
        self._owner = take_over(url)
        self._removable = folders_of(self._storage.names()) if self._rank == 0 else set()

    def mark_damaged(self, damaged: Collection[str]) -> None:
        """Marks checkpoints that could not be read: they do not count among those that are kept."""
        self._damaged |= set(damaged)

    def save(self, engine: PartitionedEngine, manifest: CheckpointManifest, may_remove: bool = True) -> float:
        """Starts to write a checkpoint, whose `manifest` still lacks its files. Older ones may be deleted afterwards.

        Every rank calls it.

        Returns:
            Seconds that training was blocked: by the previous checkpoint, if it was still being written, and by the
            copy.
        """
        started = time.monotonic()
        self.wait()
        self._name = from_first_rank(new_folder_name(manifest.step))
        slices = self._copied(local_slices(engine))
        self._removable.add(self._name)
        self._give_up.clear()
        self._all_wrote.clear()
        self._part = self._threads.submit(self._write_part, self._name, slices)
        if self._rank == 0:
            self._closing = self._threads.submit(self._close, self._name, manifest, may_remove)
        return time.monotonic() - started

    def wait(self) -> bool:
        """Waits for the checkpoint that is being written, if any. Every rank calls it.

        Returns:
            True if it was completed, or if there was none.

        Raises:
            InputError: another attempt has taken over the checkpoints.
        """
        if self._part is None:
            return True
        own = _problem(self._part)
        problem = agree_on_problem(own and f"{rank_file(self._rank)}: {own}")
        (self._give_up if problem else self._all_wrote).set()
        closing_problem = None if self._closing is None else _problem(self._closing)
        problem = problem or closing_problem
        self._part = self._closing = None
        problem, taken_over = from_first_rank((problem, self._taken_over))
        self.problem = problem or ""
        if taken_over:
            raise InputError(taken_over)
        if problem and self._rank == 0:
            self._log(f"checkpoint {self._url}/{self._name} could not be written and does not count: {problem}")
            with suppress(OSError, InputError):  # its files take the space that the next checkpoint needs
                self._storage.delete_folder(self._name)
        return not problem

    def _copied(self, slices: list[Slice]) -> list[Slice]:
        """Copies the slices to host memory that every checkpoint reuses."""
        for each in slices:
            if each.name not in self._copies:
                pinned = each.tensors["master"].is_cuda
                memory = {key: torch.empty(each.count, pin_memory=pinned) for key in each.tensors}
                self._copies[each.name] = replace(each, tensors=memory)
            for key, tensor in each.tensors.items():
                self._copies[each.name].tensors[key].copy_(tensor, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return [self._copies[each.name] for each in slices]

    def _write_part(self, name: str, slices: list[Slice]) -> None:
        written: list[CheckpointFile] = []
        self._storage.write(f"{name}/{rank_file(self._rank)}", lambda path: written.append(write_slices(path, slices)))
        write_record(self._storage, name, self._rank, written[-1])

    def _close(self, name: str, manifest: CheckpointManifest, may_remove: bool) -> None:
        assert self._owner is not None
        files = self._files(name, manifest.world_size)
        if files is None or not self._still_owned():
            return
        write_manifest(self._storage, name, replace(manifest, files=files))
        if not may_remove or not self._still_owned():
            return
        try:
            remove_old(self._url, name, self._kept, self._removable, self._damaged)
        except (OSError, InputError) as error:  # the new checkpoint is complete nevertheless
            self._log(f"older checkpoints in {self._url} could not be removed: {error}")

    def _files(self, name: str, world_size: int) -> dict[str, CheckpointFile] | None:
        """Waits for all ranks' records, and returns them by file; None if a rank has failed."""
        files: dict[int, CheckpointFile] = {}
        seen_by = 0.0
        while True:
            files |= read_records(self._url, name, missing := set(range(world_size)) - files.keys())
            missing -= files.keys()
            if not missing:
                return {rank_file(rank): files[rank] for rank in range(world_size)}
            if self._all_wrote.is_set():
                seen_by = seen_by or time.monotonic() + VISIBLE_WITHIN_S
                if time.monotonic() > seen_by:
                    raise InputError(
                        f"rank {min(missing)} has written its part, but rank 0 does not see it; is the folder shared?"
                    )
            if self._give_up.wait(POLL_S):
                return None

    def _still_owned(self) -> bool:
        assert self._owner is not None
        self._taken_over = self._owner.loss()
        return not self._taken_over


def take_over(url: str) -> RunOwner | None:
    """Makes this attempt the owner of the checkpoints. Every rank calls it; only the first one gets a `RunOwner`.

    Raises:
        InputError: on every rank: another attempt has just taken them, or the ranks see different folders.
    """
    owner, problem = None, ""
    if dist.get_rank() == 0:
        try:
            owner = RunOwner(url)
        except (OSError, InputError) as error:
            problem = str(error)
    text, problem = from_first_rank((owner.text if owner else "", problem))
    if problem:
        raise InputError(problem)
    blind = "" if owner_text(url) == text else f"rank {dist.get_rank()} on {socket.gethostname()}"
    if found := [each for each in from_every_rank(blind) if each]:
        raise InputError(
            f"checkpoints {url!r}: {', '.join(found)} does not see what rank 0 has just written there; name a folder "
            "on a file system that all nodes share, or a bucket, with checkpoint_folder or --root (or another attempt "
            "has just taken them over)"
        )
    return owner


def _problem(task: Future[None]) -> str | None:
    """Waits until the task ends. Returns an error message, or None."""
    error = task.exception()
    return f"{type(error).__name__}: {error}" if error else None
