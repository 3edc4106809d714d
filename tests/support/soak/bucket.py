"""The settings of a soak, and what is in its bucket at the start and at the end."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tests.support.past_run import PAST_RUN
from tests.support.s3 import BUCKET
from tokenization.corpora.noise import write_noise_shard
from tokenization.files.storage import open_storage

SIZE_PX = 96


@dataclass(frozen=True)
class Settings:
    """Settings of a soak."""

    minutes: float = 60.0
    """Minutes of the rounds under faults. The cluster's start and the undisturbed round take two more."""
    seed: int = 0
    """Random seed of the faults."""
    scheme: Literal["s3", "gs", "az"] = "s3"
    """The service that keeps the corpus, tokens, checkpoints and ledgers: S3, Google Cloud Storage or Azure."""
    pause_s: float = 10.0
    """Mean seconds from one fault to the next."""
    steps: int = 400
    """Steps of a training."""
    shards: int = 24
    """Shards of the corpus."""
    rows: int = 40
    """Pictures of a shard."""
    heartbeat_s: float = 0.5
    """Seconds from one row of a ledger to the next. If all processes die at once, so much is not counted."""
    ledger_tolerance: float = 0.01
    """Largest relative difference between what the ledgers count and what was held."""

    def url(self, key: str) -> str:
        """The URL of what lies below `key` in the bucket."""
        return f"{self.scheme}://{BUCKET}/{key}"


def fill_bucket(settings: Settings, corpus: Path) -> None:
    """Puts the corpus that is tokenized and the tokens that are trained on into the bucket."""
    for shard in range(settings.shards):
        write_noise_shard(corpus / f"{shard:03d}.tar", shard * settings.rows, settings.rows, SIZE_PX, settings.seed)
    run = PAST_RUN / "past"
    for key, files in (
        ("corpus", corpus),
        ("tokens/shapes", run / "tokens"),
        ("tokens/pages", run / "corpora" / "pages" / "tokens"),
    ):
        storage = open_storage(settings.url(key))
        for path in (each for each in files.rglob("*") if each.is_file()):
            storage.write(path.relative_to(files).as_posix(), partial(shutil.copyfile, path))


def copy_files(url: str, folder: Path) -> None:
    """Copies all small files below a URL into a folder."""
    storage = open_storage(url)
    for name in storage.names():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(storage.text(name) or "")
