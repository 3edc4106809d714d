"""Reports a corpus of which nearly nothing can be used, with the likely cause, as soon as a shard shows it."""

import json
from collections import Counter

from tokenization.files.storage import Storage
from tokenization.table.shard_statistics import ShardStatistics, rejects_name

NEARLY_ALL = 0.9
"""The share of the samples so far whose rejection is told at once."""


class Alarm:
    """Looks at each shard of a job as it ends, until there is something to tell, which is told once.

    Shards without samples decide nothing: the first one with samples does, and with it those that follow.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage, self._rejected, self._rows, self._was_told = storage, 0, 0, False

    def ended(self, shard: str, how: ShardStatistics | str) -> str:
        """A message if nearly all samples so far are rejected, or if shards fail before there is any; else empty.

        Args:
            shard: a shard that has just ended.
            how: its statistics, or why it could not be read.
        """
        if self._was_told:
            return ""
        if isinstance(how, str):
            message = "" if self._rows else f"the first shard cannot be read: {how}"
        else:
            self._rows += how.rows_out
            self._rejected += sum(how.rejects.values())
            message = self._of_rejects(shard, how)
        self._was_told = bool(message)
        return message

    def _of_rejects(self, shard: str, how: ShardStatistics) -> str:
        if not how.rejects or self._rejected < NEARLY_ALL * (self._rejected + self._rows):
            return ""
        all_of = "all" if not self._rows else f"{self._rejected} of"
        samples, where = self._rejected + self._rows, f"shard {shard!r}"
        if samples > how.rows_out + sum(how.rejects.values()):
            where = f"the first shards, of which {shard!r} is one,"
        return f"{all_of} {samples} samples of {where} are rejected: {cause_of(self._storage, shard)}"


def cause_of(storage: Storage, shard: str) -> str:
    """The most common reason and message of a shard's rejects, with the key of one."""
    with storage.local(rejects_name(shard)) as path, path.open(encoding="utf-8", newline="\n") as file:
        rejects = [json.loads(line) for line in file]  # a message may have the other separators that splitlines knows
    ((reason, count),) = Counter(reject["reason"] for reject in rejects).most_common(1)
    of_reason = [reject for reject in rejects if reject["reason"] == reason]
    ((message, _),) = Counter(reject["message"] for reject in of_reason).most_common(1)
    key = next(reject["key"] for reject in of_reason if reject["message"] == message)
    return f"{count} for {reason!r}, as {key!r}: {message}"
