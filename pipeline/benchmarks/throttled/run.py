"""Predicts and measures steps of several ways of training behind throttled links, and compares both."""

import json
import multiprocessing
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.benchmarks.throttled.nodes import check_can_throttle, throttled_nodes
from pipeline.benchmarks.throttled.rank import Measured, Probe, Seconds, Setting, config_of, measure_rank
from pipeline.config.benchmarks import PredictSettings
from pipeline.config.zero import ZeroConfig
from pipeline.planning.flops import count_parameters
from pipeline.planning.partition_traffic import micro_step_traffic, update_traffic
from pipeline.planning.step_time import LinkRates, Overlap, Phase, Traffic, step_time
from pipeline.runtime.terminal import say

ON_CPU = Overlap(gathers=True, reductions=False)
"""DeepSpeed reduces gradients on CPUs while the backward pass waits."""
LAYERS = 4
ZERO_3 = ZeroConfig(
    zero_stage=3,
    frozen_whole=True,
    whole_layers=True,
    saving_linear=False,
    persistence_threshold=0,
    prefetch_bucket_size=4_000_000,
)
ZERO_2 = replace(ZERO_3, zero_stage=2)
LIMIT_S = 240.0
"""Seconds that the ranks of a setting may take."""


def settings_of(mbit_per_s: tuple[float, ...]) -> Iterator[Setting]:
    """Yields what is compared at each rate: two ranks on two nodes, and four, with and without a copy a node."""
    for rate in mbit_per_s:
        yield Setting(f"2 nodes, ZeRO-3, {rate:g} Mbit/s", 2, 1, rate, LAYERS, 1, ZERO_3)
        yield Setting(f"2 nodes, ZeRO-3, 2 micro-steps, {rate:g} Mbit/s", 2, 1, rate, LAYERS, 2, ZERO_3)
        yield Setting(f"2 nodes, ZeRO-2, {rate:g} Mbit/s", 2, 1, rate, LAYERS, 1, ZERO_2)
        yield Setting(f"2 nodes of 2 ranks, ZeRO-3, {rate:g} Mbit/s", 2, 2, rate, LAYERS, 1, ZERO_3)
        copied = replace(ZERO_3, secondary_partition_size=2)
        yield Setting(f"2 nodes of 2 ranks, ZeRO-3 with a copy a node, {rate:g} Mbit/s", 2, 2, rate, LAYERS, 2, copied)


def benchmark_predictions(settings: PredictSettings) -> dict[str, Any]:
    """Compares all settings.

    Raises:
        UsageError: links cannot be throttled on this machine.
    """
    check_can_throttle()
    rows = []
    for setting in settings_of(settings.mbit_per_s):
        rows.append(compare(setting))
        say(
            f"{rows[-1]['setting']}: predicted {rows[-1]['predicted_s']:.2f} s, measured {rows[-1]['measured_s']:.2f} s"
        )
    ratios = [row["predicted_over_measured"] for row in rows]
    return {
        "settings": rows,
        "within_15_percent": sum(abs(ratio - 1) <= 0.15 for ratio in ratios),
        "of": len(rows),
        "worst": max(ratios, key=lambda ratio: abs(ratio - 1)),
    }


def compare(setting: Setting) -> dict[str, Any]:
    """Predicts and measures one setting."""
    with throttled_nodes(setting.nodes, setting.mbit_per_s) as names:
        seconds = Seconds(**_ranks(setting, names, real=False))
        found = _ranks(setting, names, real=True)
    probes = {name: Probe(**found[name]) if found[name] else None for name in ("gather", "reduction", "inside")}
    measured = Measured(found["step_s"], probes["gather"], probes["reduction"], probes["inside"])  # type: ignore[arg-type]
    predicted = predict(setting, seconds, measured)
    return {
        "setting": setting.name,
        "predicted_s": predicted,
        "measured_s": measured.step_s,
        "predicted_over_measured": predicted / measured.step_s,
        "computation_s": setting.micro_steps * (seconds.forward_s + seconds.backward_s) + seconds.update_s,
        "gather_mb_per_s": measured.gather.bytes_per_s / 1e6,
        "reduction_mb_per_s": measured.reduction.bytes_per_s / 1e6,
    }


def predict(setting: Setting, seconds: Seconds, measured: Measured) -> float:
    """Predicts a step from its computation and from what collectives reach on the links."""
    config, zero = config_of(setting), replace(setting.zero, dtype="float32")
    counts = count_parameters(config)
    phases = []
    for number in range(setting.micro_steps):
        traffic = micro_step_traffic(config, counts, zero, setting.ranks, setting.ranks_per_node, first=number == 0)
        reductions = _slower(traffic.reductions, setting, measured)
        phases += [
            Phase("forward", seconds.forward_s, 0.0, gathers=traffic.forward_gathers, exposed=traffic.first_unit),
            Phase("backward", seconds.backward_s, 0.0, gathers=traffic.backward_gathers, reductions=reductions),
        ]
    exposed = update_traffic(counts, zero, setting.ranks, setting.ranks_per_node)
    phases.append(Phase("update", seconds.update_s, 0.0, exposed=exposed))
    return step_time(phases, _links(setting, measured), ON_CPU).seconds


def _links(setting: Setting, measured: Measured) -> LinkRates:
    """The links as all-gathers see them. The rates of `Probe` are those of whole tensors."""
    inside, across = measured.inside or measured.gather, measured.gather
    return LinkRates(
        ranks=setting.ranks,
        ranks_per_node=setting.ranks_per_node,
        inside_bytes_per_s=inside.bytes_per_s * (1 - 1 / max(2, setting.ranks_per_node)),
        between_bytes_per_s=across.bytes_per_s * (1 - 1 / setting.ranks),
        inside_call_s=inside.call_s,
        across_call_s=across.call_s,
    )


def _slower(traffic: Traffic, setting: Setting, measured: Measured) -> Traffic:
    """Reductions as all-gathers that take as long. ZeRO-2 sums T bytes by an all-reduce, which counts as 2 T."""
    factor = measured.gather.bytes_per_s / measured.reduction.bytes_per_s / (2 if setting.zero.zero_stage == 2 else 1)
    return replace(traffic, across_bytes=traffic.across_bytes * factor, inside_bytes=traffic.inside_bytes * factor)


def _ranks(setting: Setting, names: list[str], real: bool) -> dict[str, Any]:
    """Runs the ranks of a setting, forked from one process that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.benchmarks.throttled.preload"])
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port, result = probe.getsockname()[1], Path(folder) / "found.json"
        ranks = [
            context.Process(target=measure_rank, args=(number, setting, names, port, real, result))
            for number in range(setting.ranks)
        ]
        try:
            for rank in ranks:
                rank.start()
            for rank in ranks:
                rank.join(LIMIT_S)
            failed = [number for number, rank in enumerate(ranks) if rank.exitcode]
        finally:
            for rank in ranks:
                if rank.pid:
                    rank.kill()
        if failed:
            raise RuntimeError(f"{setting.name}: ranks {failed} failed; their errors are above")
        found: dict[str, Any] = json.loads(result.read_text())
        return found
