"""How far a tokenization job is."""

import time
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Progress of a job. `shards_before` were done when it started; `rows` and `rejects` count this job alone. `alarm`
    is what is wrong with its first shards, if nearly nothing of them could be used; `balance` is what is to be said of
    readers and encoders after its first minute."""

    shards: int
    shards_before: int
    shards_done: int
    shards_failed: int = 0
    rows: int = 0
    rejects: int = 0
    alarm: str = ""
    balance: str = ""
    started: float = field(default_factory=time.monotonic)
