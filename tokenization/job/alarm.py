"""What is wrong with a corpus of which nearly nothing can be used, told as soon as its first shard is done."""

import json
from collections import Counter

from tokenization.files.storage import Storage
from tokenization.table.manifest import ShardStatistics, rejects_name

NEARLY_ALL = 0.9
"""The share of a shard's samples whose rejection is told at once."""


def alarm_of(storage: Storage, shard: str, ended: ShardStatistics | str) -> str:
    """A message on a shard that failed, or of which nearly all samples were rejected, with the likely cause; or "".

    Args:
        storage: the tokens' folder.
        shard: the shard's name.
        ended: its statistics, or why it could not be read.
    """
    if isinstance(ended, str):
        return f"the first shard cannot be read: {ended}"
    rejected = sum(ended.rejects.values())
    if not rejected or rejected < NEARLY_ALL * (rejected + ended.rows_out):
        return ""
    all_of = "all" if not ended.rows_out else f"{rejected} of"
    return f"{all_of} {rejected + ended.rows_out} samples of shard {shard!r} are rejected: {cause_of(storage, shard)}"


def cause_of(storage: Storage, shard: str) -> str:
    """The most common reason and message of a shard's rejects, with the key of one."""
    with storage.local(rejects_name(shard)) as path:
        rejects = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    ((reason, count),) = Counter(reject["reason"] for reject in rejects).most_common(1)
    of_reason = [reject for reject in rejects if reject["reason"] == reason]
    ((message, _),) = Counter(reject["message"] for reject in of_reason).most_common(1)
    key = next(reject["key"] for reject in of_reason if reject["message"] == message)
    return f"{count} for {reason!r}, as {key!r}: {message}"
