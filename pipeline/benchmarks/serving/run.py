"""Measures a server on this machine beside `generate`, in one run on one Ray cluster."""

import asyncio
import os
import signal
import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from ray import serve

from pipeline.benchmarks.serving.clients import USUAL_FAULTS, Asked, Client, Expected, run_clients
from pipeline.config.benchmarks import ServeSettings
from pipeline.config.serving import ServerSettings, ServingLimits
from pipeline.errors import UsageError
from pipeline.generation.actor import Generator, GeneratorConfig
from pipeline.generation.sampling import Sampling
from pipeline.runs.paths import RunPaths
from pipeline.runtime.ray_connection import ADDRESS, connect_to_ray, is_own_cluster
from pipeline.runtime.terminal import say
from pipeline.serving.model_source import model_source
from pipeline.serving.served_model import ServedModel
from pipeline.serving.server import APPLICATION, serving

PROMPTS = ("red heart", "红心", "grinning face", "cat", "火箭", "umbrella", "crab", "pizza")
NUM_SEEDS = 4
KILL_AT, BASELINE_AT = 0.1, 0.4
"""Shares of the last measurement's requests after which a replica is killed, and memory is read for the first time."""
LIMITS = ServingLimits(max_outstanding=64, requests_per_minute=0, max_body_bytes=1_000_000)
SERVER_PROCESSES = ("ServeReplica", "ProxyActor", "ServeController")


def benchmark_serving(settings: ServeSettings, paths: RunPaths) -> dict[str, Any]:
    """Times `generate` and the server with as many rows and CPUs, and checks every answer of many clients."""
    served = model_source("", paths)()
    connect_to_ray()
    if not is_own_cluster():
        raise UsageError(f"this benchmark starts Ray itself, to see all processes of the server; unset {ADDRESS}")
    asked = [Asked(prompt, seed) for seed in range(NUM_SEEDS) for prompt in PROMPTS]
    say(f"serve: times generate with {settings.batch_size} pictures at once")
    expected, generate_per_s, generate_lone_s = _time_generate(settings, served, asked)
    server = ServerSettings(port=settings.port, batch_size=settings.batch_size, limits=LIMITS, follow_s=0)
    with serving(served, server) as url:
        client = Client(url, expected, 2 * LIMITS.max_body_bytes)
        count = settings.batch_size
        asyncio.run(run_clients(client, _many(asked, count), count))
        say(f"serve: {count} clients at once")
        seconds = asyncio.run(run_clients(client, _many(asked, count * settings.batches), count))
        per_s = count * settings.batches / seconds
        say(f"serve: {per_s:.2f} pictures/s, generate {generate_per_s:.2f}")
        say("serve: one client")
        client.outcome.took_s.clear()
        asyncio.run(run_clients(client, _many(asked, settings.lone_requests), 1))
        lone_s = statistics.median(client.outcome.took_s)
        say(f"serve: a lone picture in {lone_s:.2f} s, generate {generate_lone_s:.2f} s")
        say(f"serve: {settings.clients} clients, with faults")
        growth, faulty_s = _punish(settings, client, asked)
        left = _rows_left()
    outcome = client.outcome
    for line in outcome.wrong[:10]:
        say(f"serve: wrong: {line}")
    return {
        "throughput_over_generate": per_s / generate_per_s,
        "lone_over_generate": lone_s / generate_lone_s,
        "requests": outcome.num_requests,
        "wrong": len(outcome.wrong),
        "rss_growth": growth,
        "rows_left": left,
        "pictures_per_s": per_s,
        "generate_pictures_per_s": generate_per_s,
        "lone_s": lone_s,
        "generate_lone_s": generate_lone_s,
        "faulty_s": faulty_s,
        "refused_and_asked_again": outcome.num_refused,
        "outcomes": dict(outcome.counts),
    }


def _time_generate(settings: ServeSettings, served: ServedModel, asked: list[Asked]) -> tuple[Expected, float, float]:
    """The pictures that `generate` draws, its pictures a second, and the seconds of a picture alone."""
    sampling = Sampling(served.temperature, served.top_k, 1.0, served.guidance_scale)
    config = GeneratorConfig(
        export=Path(served.export),
        batch_size=settings.batch_size,
        prompt_len=served.max_prompt_ids,
        num_codes=served.num_codes,
        sampling=sampling,
        high=served.high,
        vqgan=Path(served.vqgan),
        vqgan_dtype=served.vqgan_dtype,
        as_served=True,
    )
    actor: Any = ray.remote(Generator).options(num_cpus=1).remote(config)

    def draw(some: list[Asked]) -> tuple[dict[str, np.ndarray], float]:
        columns = {"prompt": np.asarray([each.prompt for each in some], dtype=object)}
        columns["seed"] = np.asarray([each.seed for each in some])
        began = time.monotonic()
        made: dict[str, np.ndarray] = ray.get(actor.__call__.remote(columns))
        return made, time.monotonic() - began

    expected: Expected = {}
    for start in range(0, len(asked), settings.batch_size):
        some = asked[start : start + settings.batch_size]
        made, _ = draw(some)
        for number, each in enumerate(some):
            high = made.get("drawn_high_codes")
            high_codes = None if high is None else tuple(high[number].tolist())
            expected[each] = (tuple(made["drawn_codes"][number].tolist()), high_codes)
    seconds = [draw(_many(asked, settings.batch_size))[1] for _ in range(settings.batches)]
    lone = [draw(asked[:1])[1] for _ in range(settings.lone_requests)]
    ray.kill(actor)
    return expected, settings.batch_size / statistics.median(seconds), statistics.median(lone)


def _punish(settings: ServeSettings, client: Client, asked: list[Asked]) -> tuple[float, float]:
    """Many clients with faults. Returns the growth of the server's memory as a share, and the seconds."""
    first, kill_at, baseline_at = [0], settings.requests * KILL_AT, settings.requests * BASELINE_AT
    killed, replica = False, _replica_process()

    def progress(number: int) -> None:
        nonlocal killed
        if number >= kill_at and not killed:
            killed = True
            say("serve: kills a replica")
            os.kill(replica, signal.SIGKILL)
        if number >= baseline_at and not first[0]:
            first[0] = _server_rss()

    many = _many(asked, settings.requests)
    seconds = asyncio.run(run_clients(client, many, settings.clients, faults=USUAL_FAULTS, progress=progress))
    time.sleep(2)  # answers to those that hung up are being given up
    return (_server_rss() / first[0] - 1 if first[0] else 0.0), seconds


def _replica_process() -> int:
    return int(serve.get_deployment_handle("Replica", APPLICATION).process_id.remote().result(timeout_s=60))


def _rows_left() -> int:
    return int(serve.get_deployment_handle("Replica", APPLICATION).num_rows.remote().result(timeout_s=60))


def _server_rss() -> int:
    """Bytes of the server's processes on this machine."""
    return sum(process.memory_info().rss for process in _server_processes())


def _server_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(name in " ".join(process.cmdline()) for name in SERVER_PROCESSES):
                found.append(process)
    return found


def _many(asked: list[Asked], count: int) -> list[Asked]:
    return [asked[number % len(asked)] for number in range(count)]
