"""Runs rounds of tokenization and training under faults, and compares each with an undisturbed one."""

import os
import random
import shutil
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
from tests.support.bucket_servers import BucketServers
from tests.support.fault_matrix import nothing_left
from tests.support.faulty_server import FaultyServer
from tests.support.past_run import PAST_RUN, RECIPE
from tests.support.restartable_nodes import RestartableNodes
from tests.support.small_disk import small_disk
from tests.support.soak.bucket import Settings, copy_files, fill_bucket
from tests.support.soak.ends import check_validations, tokens_of
from tests.support.soak.faults import Faults
from tests.support.soak.held import HeldCpus
from tests.support.soak.job import SoakJob, environment_of

NODES = 4
POLL_S = 0.1
SAY_EVERY_S = 30.0
CALM_SHARE = 0.25
"""Share of the time at the end in which nothing is broken any more, so that the last round ends in time."""
LIMIT_FACTOR, LIMIT_S = 1.5, 600.0
"""A soak of M minutes that is not over after `LIMIT_FACTOR` M minutes and `LIMIT_S` seconds hangs."""
DISK_BYTES = 64 * 2**20
VALIDATE_EVERY_STEPS = 20


@dataclass
class Soak:
    """A soak on its cluster.

    Attributes:
        settings: its settings.
        folder: folder of its files.
        disk: small file system with the runs' folders.
        nodes, server: the cluster, and the service that keeps the bucket.
        done: faults so far, with their seconds since the start.
        held_s: CPU-seconds that earlier clusters' jobs held, as the pollers saw them.
    """

    settings: Settings
    folder: Path
    disk: Path
    nodes: RestartableNodes
    server: FaultyServer
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
            tokens = (tokens_of(self.settings.url(f"{each}/tokens")) for each in (name, "calm"))
            assert next(tokens) == next(tokens), f"{name} ended with other tokens"
            ends = (self.settings.url(f"{each}/checkpoints/past/stage1") for each in (name, "calm"))
            assert same_ends(*ends), f"{name} ended with other weights or moments"
            check_validations(self._stage(name), self._stage("calm"), self.settings.steps)
            self._say(f"{name} ended with the tokens and the weights of the undisturbed round")
        held_s, counted_s = self._held_and_counted()
        error = abs(counted_s - held_s) / held_s
        if error >= self.settings.ledger_tolerance:
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
        faults = Faults(self.nodes, self.server, self.disk, jobs, self._chance, self._restart_head)
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
            f"ledger_folder={self.settings.url(f'ledgers/{name}/{job}')}",
            "--set",
            f"heartbeat_s={self.settings.heartbeat_s}",
        ]
        environment = environment_of(self.nodes.environment)
        return SoakJob(job, usual + words, environment, self.folder / f"{name}-{job}.log")

    def _training(self, name: str) -> SoakJob:
        words = ["--stage", "1"]
        for value in (
            f"corpora.shapes.tokens={self.settings.url('tokens/shapes')}",
            f"corpora.pages.tokens={self.settings.url('tokens/pages')}",
            f"language_expert_folder={PAST_RUN / 'past' / 'lm'}",
            f"checkpoint_folder={self.settings.url(f'{name}/checkpoints')}",
            f"stages.0.steps={self.settings.steps}",
            "stages.0.save_every_steps=5",
            f"stages.0.validate_every_steps={VALIDATE_EVERY_STEPS}",
            "scaling.async_validation=True",
            "scaling.max_retries=1000",
        ):
            words += ["--set", value]
        return self._job("train_stage", name, words)

    def _tokenization(self, name: str) -> SoakJob:
        words = ["--corpus", self.settings.url("corpus"), "--output", self.settings.url(f"{name}/tokens")]
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
        jobs = ("train_stage", "tokenize")
        places = [self.settings.url(f"ledgers/{name}/{job}/past") for name in self.rounds for job in jobs]
        tables = [read_ledger(place).table for place in places]
        return self.held_s + self._poller.stop(), float(
            sum(table["gpu_days"].sum() for table in tables) * SECONDS_PER_DAY
        )

    def _stage(self, name: str) -> Path:
        return self.disk / name / "train_stage" / "past" / "stage1"

    def _keep_ledgers(self) -> None:
        """Copies all rows of the ledgers into the soak's folder, next to what the pollers saw."""
        copy_files(self.settings.url("ledgers"), self.folder / "ledgers")

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
            result = started.run()
        shutil.rmtree(folder)
        return result
    except AssertionError as error:
        faults = started.done if "started" in locals() else []
        return {"passed": False, "wrong": str(error), "folder": str(folder), "faults": faults}


@contextmanager
def _started(settings: Settings, folder: Path) -> Iterator[Soak]:
    """Starts the storage and the cluster. Ends them afterwards."""
    with ExitStack() as ending:
        servers = BucketServers()
        ending.callback(servers.stop)
        server = servers.start(settings.scheme)
        ending.callback(server.stop)
        ending.enter_context(patch.dict(os.environ, server.environment()))
        fill_bucket(settings, folder / "corpus")
        disk = ending.enter_context(small_disk(folder / "disk", DISK_BYTES))
        nodes = RestartableNodes(folder / "nodes", NODES, server.environment())
        ending.callback(nodes.stop)
        started = Soak(settings, folder, disk, nodes, server)
        ending.callback(started.close)
        yield started
