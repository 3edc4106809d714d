"""Kills workers, nodes and the driver of a training at random, and measures the cost."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pipeline.checkpoints.manifest import MANIFEST_FILE, Checkpoint, finished_checkpoint
from pipeline.checkpoints.optimizer_slices import KEYS
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.errors import InputError
from pipeline.runtime.local_cluster import LocalNodes, kill_tree
from pipeline.step_figures import read_step_figures

KINDS = ("worker", "node", "driver")
POLL_S = 0.05
WHILE_SAVING_SHARE = 0.3
"""Share of the kills that wait for the start of a checkpoint and then follow at once."""


@dataclass(frozen=True)
class Kill:
    """A SIGKILL to one process, or to each process of a node.

    Attributes:
        kind: one of `KINDS`.
        pid: the process, or for a node the process that started its raylet.
        phase: phase of the run: `starting`, `training` or `saving`.
        step: last reported step.
        at_s: seconds since the run's start.
        at: when, in seconds of the wall clock.
    """

    kind: str
    pid: int
    phase: str
    step: int
    at_s: float
    at: float


@dataclass
class FaultInjector:
    """Runs a training command repeatedly until it succeeds, and kills processes of it at random.

    Attributes:
        command: command line of the job.
        nodes: the cluster; the job gets its address in `RAY_ADDRESS`.
        stage: folder of the stage.
        steps: steps of the stage; there is no kill after the last one.
        mean_pause_s: mean seconds between two kills.
        seed: seed of the kills' kinds and times.
        log: called with a line for each kill.
        most: maximum number of kills.
    """

    command: list[str]
    nodes: LocalNodes
    stage: Path
    steps: int
    mean_pause_s: float
    seed: int
    log: Callable[[str], None]
    most: int = 10**6
    kills: list[Kill] = field(default_factory=list)
    seconds: float = 0.0

    def run(self, output: Path, timeout_s: float) -> None:
        """Runs the command to the stage's end.

        Raises:
            RuntimeError: the job ended otherwise than by a kill of its driver, or not in time.
        """
        chance, started = random.Random(self.seed), time.monotonic()
        job = self._start(output)
        due, while_saving = self._next(chance, started)
        while True:
            time.sleep(POLL_S)
            now = time.monotonic()
            if now - started > timeout_s:
                kill_tree(job)
                raise RuntimeError(f"the run did not end within {timeout_s:.0f} s; its output is in {output}")
            if not job.is_running() or job.status() == psutil.STATUS_ZOMBIE:
                if job.wait() != 0:
                    raise RuntimeError(f"the job ended by itself with an error; its output is in {output}")
                break
            if now < due:
                continue
            phase, wants_saving = self._phase(), while_saving and now < due + self.mean_pause_s
            if (wants_saving and phase != "saving") or self._step() >= self.steps - 1:
                continue
            at = time.time()
            if len(self.kills) < self.most and (pid := self._kill(kind := chance.choice(KINDS), job, chance)):
                self.kills.append(Kill(kind, pid, phase, self._step(), now - started, at))
                self.log(f"killed a {kind}, process {pid}, at step {self._step()} while {phase}")
                if kind == "driver":
                    job = self._start(output)
                due, while_saving = self._next(chance, time.monotonic())
        self.seconds = time.monotonic() - started

    def _next(self, chance: random.Random, now: float) -> tuple[float, bool]:
        return now + chance.uniform(0.4, 1.6) * self.mean_pause_s, chance.random() < WHILE_SAVING_SHARE

    def _start(self, output: Path) -> psutil.Popen:
        with output.open("a") as file:
            return psutil.Popen(self.command, env=self.nodes.environment, stdout=file, stderr=file)

    def _kill(self, kind: str, job: psutil.Popen, chance: random.Random) -> int:
        """Kills one target. Returns its pid, or 0 if there was no target of that kind."""
        if kind == "driver":
            kill_tree(job)
            return int(job.pid)
        if kind == "node":
            pid = self.nodes.kill_node(chance.randrange(len(self.nodes.nodes)))
            self.nodes.add_node()
            return pid
        workers = self.nodes.train_workers()
        if not workers:
            return 0
        worker = chance.choice(workers)
        try:
            worker.kill()
        except psutil.NoSuchProcess:
            return 0
        return int(worker.pid)

    def _phase(self) -> str:
        if not self.nodes.train_workers():
            return "starting"
        folders = sorted((self.stage / "checkpoints").glob("step-*"))  # sorted by step: the last one may be incomplete
        is_saving = bool(folders) and not (folders[-1] / MANIFEST_FILE).exists() and _is_fresh(folders[-1])
        return "saving" if is_saving else "training"

    def _step(self) -> int:
        lines = read_step_figures(self.stage)
        return lines[-1].step if lines else 0


def _is_fresh(folder: Path) -> bool:
    """True if the folder was written to just now: a kill leaves old ones behind."""
    try:
        return time.time() - folder.stat().st_mtime < 2.0
    except FileNotFoundError:
        return False


def goodput(stage: Path, seconds: float) -> tuple[int, float]:
    """Returns the number of repeated steps, and the seconds of the steps that counted divided by the run's seconds."""
    lines = read_step_figures(stage)
    last = {line.step: line.step_s for line in lines}
    return len(lines) - len(last), sum(last.values()) / seconds


def same_ends(first: str | Path, second: str | Path) -> bool:
    """True if two stages ended with the same weights and moments, bit for bit. Each is given by its folder, or by the
    folder or URL of its checkpoints."""
    ends = [finished_checkpoint(stage) for stage in (first, second)]
    return ends[0].manifest.shapes == ends[1].manifest.shapes and _same(*ends)


def _same(first: Checkpoint, second: Checkpoint) -> bool:
    readers = [SliceReader(each) for each in (first, second)]
    return all(
        bool((readers[0].whole(name, key) == readers[1].whole(name, key)).all())
        for name in first.manifest.shapes
        for key in KEYS
    )


def figures_of(injector: FaultInjector, attempts: int, reference: Path, reference_s: float) -> dict[str, Any]:
    """Returns the figures that `jobs/benchmark.py punish` prints."""
    redone, share = goodput(injector.stage, injector.seconds)
    return {
        "kills": len(injector.kills),
        "kills_by_kind": dict(Counter(kill.kind for kill in injector.kills)),
        "kills_by_phase": dict(Counter(kill.phase for kill in injector.kills)),
        "restarts": attempts - 1,
        "steps": injector.steps,
        "steps_redone": redone,
        "seconds": injector.seconds,
        "reference_seconds": reference_s,
        "goodput": share,
        "reference_goodput": goodput(reference, reference_s)[1],
        "weights_equal": same_ends(reference, injector.stage),
    }


def run_undisturbed(command: list[str], nodes: LocalNodes, output: Path) -> float:
    """Runs the command once. Returns its duration in seconds.

    Raises:
        InputError: the command failed.
    """
    started = time.monotonic()
    with output.open("w") as file:
        code = subprocess.run(command, env=nodes.environment, stdout=file, stderr=file, check=False).returncode
    if code:
        raise InputError(f"{' '.join(command)} ended with {code}; its output is in {output}")
    return time.monotonic() - started
