"""Each rank's record of what it has written. The first rank gathers them into the manifest."""

import json
from collections.abc import Collection
from multiprocessing.pool import ThreadPool

from pipeline.checkpoints.manifest import CheckpointFile, checkpoint_file, rank_file
from tokenization.files.storage import Storage, open_storage

READ_AT_ONCE = 16
"""Records that are read at once: a thousand requests one after the other would take a service a minute."""


def record_name(rank: int) -> str:
    """The name of a rank's record in a checkpoint's folder."""
    return f"{rank_file(rank)}.json"


def write_record(storage: Storage, name: str, rank: int, file: CheckpointFile) -> None:
    """Records a rank's file, after it has been written."""
    text = json.dumps(file.as_object())
    storage.write(f"{name}/{record_name(rank)}", lambda path: path.write_text(text))


def read_records(url: str, name: str, ranks: Collection[int]) -> dict[int, CheckpointFile]:
    """Reads the records of these ranks that are there. A listing finds them.

    Args:
        url: folder or URL of the checkpoints.
        name: name of the checkpoint.
        ranks: the ranks.
    """
    storage = open_storage(f"{url}/{name}")
    there = set(storage.names())
    found = [rank for rank in ranks if record_name(rank) in there]
    if not found:
        return {}

    def read(rank: int) -> CheckpointFile:
        with storage.local(record_name(rank)) as path:
            return checkpoint_file(json.loads(path.read_text()))

    with ThreadPool(READ_AT_ONCE) as threads:
        return dict(zip(found, threads.map(read, found), strict=True))
