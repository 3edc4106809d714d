"""Measures the speed of tokenization, compared with its single parts and with a loop over single pictures."""

import json
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.pictures import load_picture
from tokenization.job.encoder import load_encoder
from tokenization.job.progress import Progress
from tokenization.job.rows import Tools, read_chunks
from tokenization.job.run import tokenize_corpus
from tokenization.text_tokenizer import load_text_tokenizer, text_ids
from tokenization.vqgan.image_tokenizer import ImageTokenizer

STEADY = (0.25, 0.85)
"""Shares of all pictures between which the pipeline's rate is measured: all actors have started, and none is idle."""
WARMUP_BATCHES = 2


@dataclass(frozen=True)
class PictureRates:
    """Pictures per second: of the pipeline, and on the same cores of the readers, the encoders, and the loop alone."""

    pipeline: float
    reader: float
    encoder: float
    naive: float
    peak_rss_bytes: int

    def ideal(self, encoders_have_gpus: bool) -> float:
        """The rate of the parts together without losses. On the same cores their times add up; readers on CPUs and
        encoders on GPUs run in parallel."""
        if encoders_have_gpus:
            return min(self.reader, self.encoder)
        return 1 / (1 / self.reader + 1 / self.encoder)


def measure_tokenization(
    corpus: Corpus,
    config: TokenizationConfig,
    tools: Tools,
    workers: Workers,
    num_pictures: int,
    naive_pictures: int,
    log: Callable[[str], None],
) -> PictureRates:
    """Measures all rates in one run on the connected Ray cluster.

    Args:
        corpus, config, tools, workers: see `tokenize_corpus`.
        num_pictures: pictures of the corpus.
        naive_pictures: pictures for the loop over single pictures.
        log: receives lines of progress.
    """
    cores = int(ray.cluster_resources().get("CPU", 1))
    with tempfile.TemporaryDirectory() as folder, peak_memory() as peak:
        times: list[tuple[float, int]] = []

        def report(progress: Progress) -> None:
            times.append((time.monotonic(), progress.rows))

        tokenize_corpus(corpus, folder, config, tools, workers, report)
        pipeline = steady_rate(times, num_pictures)
    log(f"pipeline: {pipeline:.1f} pictures/s")
    shards = [corpus.shards[index % len(corpus.shards)] for index in range(cores)]
    readers = [ray.remote(num_cpus=1)(reader_seconds).remote(corpus, shard, config, tools) for shard in shards]
    reader = sum(1 / seconds for seconds in ray.get(readers))
    log(f"readers alone, one on each of {cores} cores: {reader:.1f} pictures/s")
    num_cpus, num_gpus = (0, 1) if workers.use_gpu else (1, 0)
    batches = max(8, naive_pictures // config.encode_batch_size)
    task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(encoder_seconds)
    count = workers.num_encoders if workers.use_gpu else cores
    encoders = [task.remote(config, tools, workers, batches) for _ in range(count)]
    encoder = sum(1 / seconds for seconds in ray.get(encoders))
    log(f"encoders alone, {count} of them: {encoder:.1f} pictures/s")
    loop = ray.remote(num_cpus=0 if workers.use_gpu else cores, num_gpus=num_gpus)(naive_seconds)
    naive = 1 / ray.get(loop.remote(corpus, config, tools, workers.use_gpu, cores, naive_pictures))
    log(f"one picture at a time: {naive:.1f} pictures/s")
    return PictureRates(pipeline, reader, encoder, naive, peak[0])


def steady_rate(times: list[tuple[float, int]], num_pictures: int) -> float:
    """Pictures per second between the `STEADY` shares, from (time, pictures so far)."""
    first, last = (next(entry for entry in times if entry[1] >= share * num_pictures) for share in STEADY)
    return (last[1] - first[1]) / (last[0] - first[0])


def reader_seconds(corpus: Corpus, shard: str, config: TokenizationConfig, tools: Tools) -> float:
    """Seconds per picture for reading, decoding and text tokenization, on one core."""
    tokenizer = load_text_tokenizer(tools.text_source, tools.text_cache)
    chunks = read_chunks(corpus, shard, config, tokenizer)
    next(chunks)
    started, pictures = time.perf_counter(), 0
    for chunk in chunks:
        pictures += len(chunk.rows)
    return (time.perf_counter() - started) / pictures


def encoder_seconds(config: TokenizationConfig, tools: Tools, workers: Workers, batches: int) -> float:
    """Seconds per picture for encoding, from pixels in memory to codes in memory."""
    vqgan = load_encoder(config, tools.vq_folder, workers)
    shape = (config.encode_batch_size, config.size_px, config.size_px, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for _ in range(WARMUP_BATCHES):
        vqgan.encode(pixels)
    started = time.perf_counter()
    for _ in range(batches):
        vqgan.encode(pixels)
    return (time.perf_counter() - started) / (batches * len(pixels))


def naive_seconds(
    corpus: Corpus, config: TokenizationConfig, tools: Tools, use_gpu: bool, threads: int, num_pictures: int
) -> float:
    """Seconds per picture of the usual simple loop: read, decode and encode one picture, write one file for it."""
    torch.set_num_threads(threads)
    vqgan = ImageTokenizer(tools.vq_folder, "cuda" if use_gpu else "cpu", getattr(torch, config.encoder_dtype))
    tokenizer = load_text_tokenizer(tools.text_source, tools.text_cache)
    with tempfile.TemporaryDirectory() as folder:
        samples = corpus.read(corpus.shards[0])
        started = 0.0
        for number in range(num_pictures + WARMUP_BATCHES):
            if number == WARMUP_BATCHES:
                started = time.perf_counter()
            sample = next(samples)
            assert sample.picture is not None
            picture = load_picture(sample.picture, config.transform)
            if picture.high:
                picture.high()
            codes = vqgan.encode(picture.pixels[None])[0]
            captions = [sample.metadata[column] for column in config.caption_columns]
            record = {"codes": codes.tolist(), "captions": [text_ids(tokenizer, [text])[0] for text in captions]}
            (Path(folder) / f"{number}.json").write_text(json.dumps(record))
        return (time.perf_counter() - started) / num_pictures


def encoder_flop(config: TokenizationConfig, tools: Tools) -> float:
    """FLOP for encoding one picture, as counted by torch."""
    vqgan = ImageTokenizer(tools.vq_folder)
    with FlopCounterMode(display=False) as counter:
        vqgan.encode(np.zeros((1, config.size_px, config.size_px, 3), np.uint8))
    return float(counter.get_total_flops())


@contextmanager
def peak_memory() -> Any:
    """Yields a list of one item. At the end it is the peak memory, in bytes, of this process, its children and Ray's
    workers together, without shared memory."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not ended.wait(0.5):
            own = {process.pid: process for process in (me, *me.children(recursive=True))}
            for process in psutil.process_iter(["cmdline"]):
                if " ".join(process.info["cmdline"] or ()).startswith("ray::"):
                    own[process.pid] = process
            peak[0] = max(peak[0], sum(map(_own_bytes, own.values())))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def _own_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_info()
    except psutil.Error:  # the process has just ended
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))
