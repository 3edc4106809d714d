"""Runs rounds of tokenization and training under faults, and compares each with an undisturbed one."""

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline.benchmarks.fault_injection import same_ends
from pipeline.config.units import SECONDS_PER_DAY
from pipeline.ledger.table import read_ledger
from tests.support.fault_matrix import nothing_left
from tests.support.past_run import PAST_RUN, RECIPE
from tests.support.restartable_nodes import RestartableNodes
from tests.support.s3 import BUCKET, FaultyS3
from tests.support.small_disk import small_disk
from tests.support.soak.ends import check_validations, tokens_of
from tests.support.soak.faults import Faults
from tests.support.soak.held import HeldCpus
from tests.support.soak.job import SoakJob, environment_of
from tokenization.corpora.noise import write_noise_shard

NODES = 4
POLL_S = 0.1
SAY_EVERY_S = 30.0
CALM_SHARE = 0.25
"""Share of the time at the end in which nothing is broken any more, so that the last round ends in time."""
LIMIT_FACTOR, LIMIT_S = 1.5, 600.0
"""A soak of M minutes that is not over after `LIMIT_FACTOR` M minutes and `LIMIT_S` seconds hangs."""
LEDGER_TOLERANCE = 0.01
SIZE_PX = 96
DISK_BYTES = 64 * 2**20
VALIDATE_EVERY_STEPS = 20


@dataclass(frozen=True)
class Settings:
    """Settings of a soak."""

    minutes: float = 60.0
    """Minutes of the rounds under faults. The cluster's start and the undisturbed round take two more."""
    seed: int = 0
    """Random seed of the faults."""
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


@dataclass
class Soak:
    """A soak on its cluster.

    Attributes:
        settings: its settings.
        folder: folder of its files.
        disk: small file system with the runs' folders.
        nodes, s3: the cluster and the storage.
        done: faults so far, with their seconds since the start.
        held_s: CPU-seconds that earlier clusters' jobs held, as the pollers saw them.
    """

    settings: Settings
    folder: Path
    disk: Path
    nodes: RestartableNodes
    s3: FaultyS3
    done: list[dict[str, Any]] = field(default_factory=list)
    held_s: float = 0.0
    rounds: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._chance, self._started = random.Random(self.settings.seed), time.monotonic()
        self._pollers, self._kinds = 0, list[str]()
        self._poller = self._new_poller()

    def run(self) -> dict[str, Any]:
        """Runs the undisturbed round and then rounds under faults. Returns the result.

        Raises:
            AssertionError: a job did something wrong, or a round ended with other tokens or weights.
        """
        self._round("calm", 0.0)
        ends_at = time.monotonic() + 60 * self.settings.minutes
        while time.monotonic() < ends_at or len(self.rounds) < 2:
            name = f"round{len(self.rounds)}"
            self._round(name, ends_at)
            assert tokens_of(self.s3, name) == tokens_of(self.s3, "calm"), f"{name} ended with other tokens"
            ends = (f"s3://{BUCKET}/{each}/checkpoints/past/stage1" for each in (name, "calm"))
            assert same_ends(*ends), f"{name} ended with other weights or moments"
            check_validations(self._stage(name), self._stage("calm"), self.settings.steps)
            self._say(f"{name} ended with the tokens and the weights of the undisturbed round")
        held_s, counted_s = self._held_and_counted()
        error = abs(counted_s - held_s) / held_s
        if error >= LEDGER_TOLERANCE:
            self._keep_ledgers()
            raise AssertionError(f"the ledgers count {counted_s:.1f} CPU-seconds, but {held_s:.1f} were held")
        return {
            "passed": True,
            "seed": self.settings.seed,
            "seconds": time.monotonic() - self._started,
            "rounds": len(self.rounds) - 1,
            "faults_by_kind": dict(sorted(Counter(each["kind"] for each in self.done).items())),
            "ends_of_jobs": dict(sorted(self.ends.items())),
            "held_cpu_s": held_s,
            "counted_cpu_s": counted_s,
            "ledger_error": error,
            "faults": self.done,
        }

    def close(self) -> None:
        """Ends the process that watches the cluster."""
        self._poller.stop()

    def _round(self, name: str, ends_at: float) -> None:
        """Runs both jobs to their ends. Breaks things until `CALM_SHARE` of the time is left."""
        self.rounds.append(name)
        jobs = [self._training(name), self._tokenization(name)]
        faults = Faults(self.nodes, self.s3, self.disk, jobs, self._chance, self._restart_head)
        calm_from = ends_at - CALM_SHARE * 60 * self.settings.minutes
        due = said = time.monotonic() + self._pause()
        try:
            while not all(job.is_done for job in jobs):
                time.sleep(POLL_S)
                now = time.monotonic()
                faults.follow()
                for job in jobs:
                    job.look(faults.excuse)
                    assert not job.wrong, job.wrong
                if due <= now < calm_from:
                    due = now + (self._pause() if self._break(name, faults) else 0.0)
                if now >= said:
                    said = now + SAY_EVERY_S
                    self._say(f"{name}: {len(self.done)} faults; ends of jobs {dict(self._ends_of(jobs))}")
                limit_s = LIMIT_FACTOR * 60 * self.settings.minutes + LIMIT_S
                assert now - self._started < limit_s, f"{name} hangs; its output is in {self.folder}"
            self.ends += self._ends_of(jobs)
        finally:
            faults.end()
            for job in jobs:
                job.stop()

    def _break(self, name: str, faults: Faults) -> bool:
        """Does the next fault, if it finds something to hit. Each kind comes once before any comes again."""
        kinds = faults.kinds()
        if not self._kinds:
            self._kinds = sorted(kinds)
            self._chance.shuffle(self._kinds)
        kind = self._kinds.pop()
        at_s, hit = time.monotonic() - self._started, kinds[kind]()
        if not hit:
            return False
        self.done.append({"at_s": round(at_s, 1), "round": name, "kind": kind, "hit": hit})
        self._say(f"{name}: {kind}: {hit}")
        return True

    def _pause(self) -> float:
        return self._chance.uniform(0.4, 1.6) * self.settings.pause_s

    def _job(self, job: str, name: str, words: list[str]) -> SoakJob:
        usual = ["--recipe", str(RECIPE), "--root", str(self.disk / name / job)]
        usual += [
            "--set",
            f"ledger_folder=s3://{BUCKET}/ledgers/{name}/{job}",
            "--set",
            f"heartbeat_s={self.settings.heartbeat_s}",
        ]
        environment = environment_of(self.nodes.environment)
        return SoakJob(job, usual + words, environment, self.folder / f"{name}-{job}.log")

    def _training(self, name: str) -> SoakJob:
        words = ["--stage", "1"]
        for value in (
            f"corpora.shapes.tokens=s3://{BUCKET}/tokens/shapes",
            f"corpora.pages.tokens=s3://{BUCKET}/tokens/pages",
            f"language_expert_folder={PAST_RUN / 'past' / 'lm'}",
            f"checkpoint_folder=s3://{BUCKET}/{name}/checkpoints",
            f"stages.0.steps={self.settings.steps}",
            "stages.0.save_every_steps=5",
            f"stages.0.validate_every_steps={VALIDATE_EVERY_STEPS}",
            "scaling.async_validation=True",
            "scaling.max_retries=1000",
        ):
            words += ["--set", value]
        return self._job("train_stage", name, words)

    def _tokenization(self, name: str) -> SoakJob:
        words = ["--corpus", f"s3://{BUCKET}/corpus", "--output", f"s3://{BUCKET}/{name}/tokens"]
        words += ["--captions", "en=caption_en", "--encoders", "1", "--readers", "1"]
        return self._job("tokenize", name, words)

    def _restart_head(self, meanwhile: Callable[[], None]) -> None:
        def once_killed() -> None:
            self.held_s += self._poller.stop()
            meanwhile()

        self.nodes.restart_head(once_killed)
        self._poller = self._new_poller()

    def _new_poller(self) -> HeldCpus:
        self._pollers += 1
        return HeldCpus(environment_of(self.nodes.environment), self.folder / f"held{self._pollers}")

    def _held_and_counted(self) -> tuple[float, float]:
        """The CPU-seconds that jobs held, as the pollers saw them, and as the ledgers have them."""
        places = [
            f"s3://{BUCKET}/ledgers/{name}/{job}/past" for name in self.rounds for job in ("train_stage", "tokenize")
        ]
        tables = [read_ledger(place).table for place in places]
        return self.held_s + self._poller.stop(), float(
            sum(table["gpu_days"].sum() for table in tables) * SECONDS_PER_DAY
        )

    def _stage(self, name: str) -> Path:
        return self.disk / name / "train_stage" / "past" / "stage1"

    def _keep_ledgers(self) -> None:
        """Copies all rows of the ledgers into the soak's folder, next to what the pollers saw."""
        client = self.s3.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="ledgers/"):
            for item in page.get("Contents", ()):
                path = self.folder / item["Key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(BUCKET, item["Key"], str(path))

    def _say(self, line: str) -> None:
        print(f"{time.monotonic() - self._started:7.1f} s  {line}", flush=True)

    @staticmethod
    def _ends_of(jobs: list[SoakJob]) -> Counter[str]:
        return Counter(f"{job.name}: {code}" for job in jobs for code in job.ends)


def soak(settings: Settings) -> dict[str, Any]:
    """Runs a soak. Returns its result; `passed` is False, and `wrong` says why, if something went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="soak", dir="/tmp"))
    try:
        with nothing_left(folder), _started(settings, folder) as started:
            return started.run()
    except AssertionError as error:
        faults = started.done if "started" in locals() else []
        return {"passed": False, "wrong": str(error), "folder": str(folder), "faults": faults}


@contextmanager
def _started(settings: Settings, folder: Path) -> Iterator[Soak]:
    """Starts the storage and the cluster. Ends them afterwards."""
    with ExitStack() as ending:
        s3 = FaultyS3()
        ending.callback(s3.stop)
        ending.enter_context(patch.dict(os.environ, s3.environment()))
        _fill_bucket(settings, s3, folder / "corpus")
        disk = ending.enter_context(small_disk(folder / "disk", DISK_BYTES))
        nodes = RestartableNodes(folder / "nodes", NODES, s3.environment())
        ending.callback(nodes.stop)
        started = Soak(settings, folder, disk, nodes, s3)
        ending.callback(started.close)
        yield started


def _fill_bucket(settings: Settings, s3: FaultyS3, corpus: Path) -> None:
    """Puts the corpus that is tokenized and the tokens that are trained on into the bucket."""
    client = s3.client()
    client.create_bucket(Bucket=BUCKET)
    for shard in range(settings.shards):
        path = corpus / f"{shard:03d}.tar"
        write_noise_shard(path, shard * settings.rows, settings.rows, SIZE_PX, settings.seed)
        client.upload_file(str(path), BUCKET, f"corpus/{path.name}")
    run = PAST_RUN / "past"
    for name, tokens in (("shapes", run / "tokens"), ("pages", run / "corpora" / "pages" / "tokens")):
        for path in (each for each in tokens.rglob("*") if each.is_file()):
            client.upload_file(str(path), BUCKET, f"tokens/{name}/{path.relative_to(tokens)}")
