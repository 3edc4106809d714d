"""Measures the CPU time of all processes of a tokenization, with encoders that answer at once."""

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tokenization.config.sources import CorpusSource
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.corpora.corpus import Corpus
from tokenization.job.one_pass import BLOCK_BYTES, Stages, num_writers
from tokenization.job.progress import Progress
from tokenization.job.rows import Tools
from tokenization.job.run import tokenize_corpus
from tokenization.job.simulated import GO, NullEncoder, SimulatedReader, simulated_fingerprint, simulated_shard

MEASURED = (0.2, 0.8)
"""Shares of all pictures between which CPU time counts: all readers have started, and no encoder is idle. Progress
comes once a second: a machine that is faster is measured from the report before the first share."""
IDLE_S = 5.0
"""Seconds for which all processes are there and wait for the first picture."""
SIMULATED_CPUS = 0.01
"""Ray's CPUs of a simulated actor, so that any number of them fits on a machine."""
PROCESSES = {
    "gcs": "gcs_server",
    "raylet": "raylet/raylet",
    "ledger": "ray::LedgerActor",
    "writers": "ray::Writer",
    "readers": f"({SimulatedReader.__name__})",
    "encoders": f"({NullEncoder.__name__})",
}
"""What the command line of each kind of process has in it. The object store is a thread of the raylet."""
SINGLE = ("driver", "gcs", "ledger")
"""Processes of which a cluster has one, whatever its size."""
ALWAYS = (*SINGLE, "raylet")
"""Processes that have something to do at any time."""


@dataclass(frozen=True)
class CpuOfParts:
    """CPU seconds of each part for `images` pictures in `seconds` of time. `idle` has the cores that parts of `ALWAYS`
    take while nothing happens, and `writers` is the number of those."""

    images: int
    seconds: float
    cpu_s: dict[str, float]
    idle: dict[str, float]
    writers: int

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    def us_per_image(self, part: str) -> float:
        """Microseconds of CPU for a picture, without those that the part would have taken in the same time anyway."""
        return max(0.0, self.cpu_s[part] - self.idle.get(part, 0.0) * self.seconds) / self.images * 1e6

    @property
    def ceiling_images_per_s(self) -> float:
        """Pictures per second at which one of `SINGLE` would be busy all the time."""
        return min((1 - self.idle[part]) * 1e6 / max(self.us_per_image(part), 1e-3) for part in SINGLE)


class CpuMeter:
    """The CPU seconds of this process, which is the driver, and of its Ray's other processes, by part."""

    def __init__(self) -> None:
        self._driver = psutil.Process()

    def mark(self) -> "Mark":
        """Reads the CPU seconds of each part since its processes started."""
        began, driver = time.monotonic(), _cpu_s(self._driver)
        found = dict.fromkeys(PROCESSES, 0.0)
        for process in self._driver.children(recursive=True):
            if part := _part_of(process):
                found[part] += _cpu_s(process)
        return Mark(began, driver, found, time.monotonic(), _cpu_s(self._driver))

    def count(self, part: str) -> int:
        """The number of processes of a part."""
        return sum(_part_of(process) == part for process in self._driver.children(recursive=True))


@dataclass(frozen=True)
class Mark:
    """CPU seconds of the parts at a time. What the driver itself takes to read them, up to `driver_after`, does not
    count."""

    before: float
    driver_before: float
    others: dict[str, float]
    after: float
    driver_after: float

    def until(self, later: "Mark") -> tuple[float, dict[str, float]]:
        """The seconds from this mark to a later one, and the CPU seconds of each part in them."""
        others = {part: later.others[part] - cpu_s for part, cpu_s in self.others.items()}
        return later.before - self.after, others | {"driver": later.driver_before - self.driver_after}


def _part_of(process: psutil.Process) -> str:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""
    return next((part for part, mark in PROCESSES.items() if mark in words), "")


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:  # it has just ended
        return 0.0
    return float(times.user + times.system)


class Window:
    """The part of a run of `num_images` pictures for which CPU time counts. `read` reads the CPU time now."""

    def __init__(self, read: Callable[[], Mark], num_images: int) -> None:
        self._read = read
        self._from, self._to = (share * num_images for share in MEASURED)
        self._began: tuple[int, Mark] | None = None
        self._ended: tuple[int, Mark] | None = None

    def report(self, images: int) -> None:
        """Takes how many pictures are done, 0 before the first."""
        if self._began is None or (self._began[0] < self._from and images < self._to):
            self._began = images, self._read()
        elif self._ended is None and images >= self._to:
            self._ended = images, self._read()

    def measured(self) -> tuple[int, float, dict[str, float]]:
        """The window's pictures, its seconds and the CPU seconds of each part, after the last report."""
        assert self._began is not None and self._ended is not None, "the run has reported its beginning and its end"
        (images_before, began), (images_after, ended) = self._began, self._ended
        return images_after - images_before, *began.until(ended)


class Idle(threading.Thread):
    """Waits until all encoders are there, measures for `IDLE_S` what the parts take while nothing happens, and lets the
    readers begin. `cores` has the result. The run begins in `window`."""

    def __init__(self, meter: CpuMeter, num_encoders: int, go: Path, window: Window) -> None:
        super().__init__(name="idle", daemon=True)
        self._meter, self._num_encoders, self._go, self._window = meter, num_encoders, go, window
        self.cores: dict[str, float] = {}

    def run(self) -> None:
        while self._meter.count("encoders") < self._num_encoders:
            time.sleep(1)
        time.sleep(2)  # actors have just been made
        began = self._meter.mark()
        time.sleep(IDLE_S)
        seconds, cpu_s = began.until(self._meter.mark())
        self.cores = {part: cpu_s[part] / seconds for part in ALWAYS}
        self._window.report(0)
        self._go.touch()


def measure_scaling(
    num_encoders: int,
    num_readers: int,
    config: TokenizationConfig,
    stand_in_px: int,
    num_images: int,
    shard_images: int,
    report: Callable[[Progress], None],
) -> CpuOfParts:
    """Tokenizes simulated pictures on the connected Ray, which this process must have started.

    Args:
        num_encoders, num_readers: actors of both stages.
        config: its sizes are those of the pictures.
        stand_in_px: side of the pictures that stand for them. A block has as many of them as it would have pictures.
        num_images, shard_images: pictures in all, and of a shard.
        report: what a job's progress is reported to; its work is the driver's.
    """
    meter = CpuMeter()
    window = Window(meter.mark, num_images)
    block_bytes = BLOCK_BYTES * stand_in_px**2 // config.size_px**2

    def watch(progress: Progress) -> None:
        report(progress)
        if progress.rows:
            window.report(progress.rows)

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number in range(-(-num_images // shard_images)):
            rows = min(shard_images, num_images - number * shard_images)
            (corpus / simulated_shard(number, rows)).touch()
        idle = Idle(meter, num_encoders, Path(folder) / GO, window)
        idle.start()
        tokenize_corpus(
            Corpus(CorpusSource(str(corpus), "webdataset")),
            f"{folder}/tokens",
            TokenizationConfig(stand_in_px, encode_batch_size=config.encode_batch_size),
            Tools(Path(folder), "", Path(folder)),
            Workers(num_encoders, num_readers),
            watch,
            fingerprint=simulated_fingerprint(config),
            stages=Stages(SimulatedReader, NullEncoder, SIMULATED_CPUS, SIMULATED_CPUS, block_bytes, True),
        )
    images, seconds, cpu_s = window.measured()
    return CpuOfParts(images, seconds, cpu_s, idle.cores, num_writers(num_encoders))
