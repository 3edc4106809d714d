"""Injects faults on a rank: bad batches, a full disk, a flipped bit. For `on_ranks(before_step=...)`."""

import itertools
import math
import resource
import time
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from pipeline.data.collate import MicroBatch
from pipeline.training.objective import MicroLoss, Objective

REAL_FORWARD = Objective.forward


def full_disk_of_rank_1(rank: int, step: int) -> None:
    """Limits files to 1,000 bytes while steps 1 to 4 run: the kernel refuses to write, as on a full disk."""
    if rank == 1 and step in (1, 5):
        time.sleep(1)  # the file being written must still meet its limit
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (1000 if step == 1 else resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )


def full_disk_of_rank_0(rank: int, step: int) -> None:
    """Does the same on the rank that writes for all: TensorBoard's events, the list of skipped steps."""
    if rank == 0 and step == 1:
        time.sleep(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
    if rank == 0 and step == 10:
        time.sleep(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    poison(range(4, 6), "loss", rank, step)


def full_disk_at_the_end(rank: int, step: int) -> None:
    if rank == 1 and step == 4:
        time.sleep(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


def poison(steps: range, how: str, rank: int, step: int) -> None:
    """Makes the losses, or only the gradients, of some steps invalid, on rank 1 alone."""
    factor = {"loss": math.nan, "gradient": 1.0, "spike": 1e4}[how] if rank == 1 and step in steps else 1.0

    def forward(self: Objective, batches: list[MicroBatch]) -> MicroLoss:
        part = REAL_FORWARD(self, batches)
        loss = part.loss * factor
        if how == "gradient" and rank == 1 and step in steps and loss.requires_grad:
            loss.register_hook(lambda gradient: gradient * math.inf)
        return replace(part, loss=loss, task_losses=part.task_losses * factor)

    patch.object(Objective, "forward", forward).start()


def poison_until_tried(steps: range, rank: int, step: int) -> None:
    """Poisons the samples of some steps; the samples that are tried after the stage's last step are good."""
    import pipeline.training.loop as loop

    poison(steps, "loss", rank, step)
    real = loop.try_step

    def tried(*args: Any, **kwargs: Any) -> Any:
        poison(range(0), "loss", rank, 0)
        return real(*args, **kwargs)

    if step == 0:
        loop.try_step = tried


def use_a_folder_of_its_own(rank: int, step: int) -> None:
    import pipeline.checkpoints.writer as writer

    if rank == 1:
        real = writer.open_storage
        writer.open_storage = lambda url: real(f"{url}-of-another-node")
        writer.owner_text = lambda url: None


def flip_a_bit(name: str, rank: int, step: int) -> None:
    """Flips a bit on rank 1 before step 2, like a bad memory cell."""
    import pipeline.training.loop as loop

    real = loop.ReplicaCheck.__call__

    def flipped(self: loop.ReplicaCheck, *args: Any) -> Any:
        if rank == 1:
            module = self._engine.module
            parameter = dict([*module.named_parameters(), *module.named_buffers()])[name]
            held = getattr(parameter, "ds_tensor", parameter)
            if getattr(parameter, "ds_persist", False) and parameter.requires_grad:
                held = parameter
            held.data.view(torch.int16).flatten()[3] ^= 4
        return real(self, *args)

    if step == 2:
        patch.object(loop.ReplicaCheck, "__call__", flipped).start()


def add_otherwise_the_second_time(rank: int, step: int) -> None:
    """Simulates a device that computes a slightly larger sum when it runs a step again."""
    import pipeline.training.step_verification as verification

    real, forward, count = verification.train_step, Objective.forward, itertools.count(1)

    def more(self: Objective, batches: list[MicroBatch]) -> MicroLoss:
        part = forward(self, batches)
        return replace(part, loss=part.loss * 1.0001, task_losses=part.task_losses * 1.0001)

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(count) == 2 and rank == 1:
            patch.object(Objective, "forward", more).start()
        return real(*args, **kwargs)

    verification.train_step = counted
