"""Detects silent corruption in memory and links: compares values that must be equal or must not change.

Every rank has the same samples in a step, the same losses, and the same copy of each weight that ZeRO keeps whole. The
language expert's weights never change, whole or partitioned. A checksum is the sum of a tensor's 16-bit words: one
changed word always changes it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable

import torch

from pipeline.checkpoints.engine import PartitionedEngine
from pipeline.data.batch_plan import Step
from pipeline.errors import CorruptionError
from pipeline.runtime.agreement import from_every_rank
from pipeline.runtime.deepspeed_private import held_part, is_whole


class ReplicaCheck:
    """One rank's part of the comparisons. Every rank makes one after model setup, and calls it at the same points.

    Args:
        engine: DeepSpeed's engine.
    """

    def __init__(self, engine: PartitionedEngine) -> None:
        self._engine = engine
        self._frozen = self._frozen_checksum()

    def __call__(self, step: Step, task_losses: torch.Tensor) -> None:
        """Compares after a step.

        Raises:
            CorruptionError: on every rank; the message says what differs, and on which rank.
        """
        found = {
            "samples": hashlib.sha256(step.samples_sha256.encode() + step.label_counts.tobytes()).hexdigest(),
            "losses": task_losses.cpu().numpy().tobytes().hex(),
            "whole weights": self._whole_checksum(),
        }
        changed = self._frozen_checksum() != self._frozen
        gathered = from_every_rank((found, changed))
        problems = [
            f"the language expert's weights changed on rank {rank}" for rank, (_, is_so) in enumerate(gathered) if is_so
        ]
        for name in found:
            values = [each[name] for each, _ in gathered]
            usual, count = Counter(values).most_common(1)[0]
            if 2 * count <= len(values):
                problems.append(f"{name} differ between the ranks, and it is unknown which rank is right")
            elif count < len(values):
                odd = [str(rank) for rank, value in enumerate(values) if value != usual]
                problems.append(f"{name} differ between the ranks: rank {', '.join(odd)} differs from the others")
        if problems:
            raise CorruptionError(
                f"{'; '.join(problems)}. Memory, a GPU or a link is at fault: test the node, or leave it out, and run "
                "the same command again; it resumes from the newest checkpoint"
            )

    def _frozen_checksum(self) -> str:
        """Checksum of this rank's part of the language expert."""
        module = self._engine.module
        frozen = [(name, held_part(one)) for name, one in module.named_parameters() if not one.requires_grad]
        # If held whole, the language expert's weights are buffers.
        frozen += [(name, one) for name, one in module.named_buffers() if one.is_floating_point()]
        return _sha256((name, _words(one)) for name, one in frozen)

    def _whole_checksum(self) -> str:
        """Checksum of the trained weights that every rank holds whole."""
        named = self._engine.module.named_parameters()
        whole = [(name, one) for name, one in named if one.requires_grad and is_whole(one)]
        return _sha256((name, _words(one)) for name, one in whole)


def check_same_language_expert(sha256: str) -> None:
    """Checks that all ranks loaded the same language expert. Every rank calls it with the hash of its own.

    Raises:
        CorruptionError: on every rank, if the hashes differ.
    """
    gathered = from_every_rank(sha256)
    if len(set(gathered)) > 1:
        usual, _ = Counter(gathered).most_common(1)[0]
        odd = [str(rank) for rank, each in enumerate(gathered) if each != usual]
        raise CorruptionError(
            f"the ranks loaded different language experts: rank {', '.join(odd)} differs from the others; check "
            "the file systems of their nodes, and run again"
        )


def _sha256(sums: Iterable[tuple[str, int]]) -> str:
    return hashlib.sha256(repr(list(sums)).encode()).hexdigest()


def _words(tensor: torch.Tensor) -> int:
    return int(tensor.detach().contiguous().view(torch.int16).sum(dtype=torch.int64))
