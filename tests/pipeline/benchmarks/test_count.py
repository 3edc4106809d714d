"""The host's time and the network traffic of a step of `mars_7b` stay within bounds, counted by real code on fake
ranks."""

import json
import os
from dataclasses import replace

import pytest

from jobs.recipes import mars_7b
from pipeline.benchmarks.count import narrow_config
from pipeline.planning.flops import count_parameters
from pipeline.planning.partition_traffic import micro_step_traffic
from tests.support.checkout import CHECKOUT
from tests.support.forked_jobs import run_forked_job


@pytest.mark.slow
def test_a_step_of_mars_7b_gathers_once_between_nodes_and_a_layer_at_a_time() -> None:
    layers = 8
    words = ["jobs/benchmark.py", "count", "--ranks", "64", "--layers", str(layers), "--json"]
    done = run_forked_job(words, dict(os.environ), CHECKOUT)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert 0 < figures["between_nodes_t_a_step"] <= 1.01, "more than the trained weights once enters a node in a step"
    assert 1.1 < figures["gathered_t_a_step"] <= 2.1, "a weight is gathered more than once in a pass"
    # Layers twice; embedding, head and reductions: at 32 layers that is under 100.
    assert figures["calls_a_micro_step"] <= 2 * layers + 20
    assert 0 < figures["drawing_t"] <= 1.05, "samples gather the weights again for each code"
    assert figures["volume_over_ideal"] <= 1.2, "a validation or a drawing makes the next step gather more"
    assert figures["host_over_plain"] > 0
    assert 0 < figures["loader_cost"] <= 0.01, "samples are built where kernels are launched"
    assert 0.005 < figures["loader_process_s"] < 1.0, "a rank's 32 samples are built within a step"
    assert 0.7 < figures["counted_over_planned_peak"] < 1.3, "of few layers, what comes once weighs more"

    # What the plan's predictions are based on is what the real code does.
    config, zero = narrow_config(layers), mars_7b.recipe().zero
    scale = config.hidden_size**2 / 4096**2
    zero = replace(
        zero,
        max_live_parameters=int(zero.max_live_parameters * scale),
        reduce_bucket_size=int(zero.reduce_bucket_size * scale),
    )
    counts = count_parameters(config)
    traffic = micro_step_traffic(config, counts, zero, ranks=64, ranks_per_node=8, first=True)
    trained = 2 * counts.trainable
    gathered = traffic.forward_gathers + traffic.backward_gathers
    assert (gathered.inside_bytes + gathered.across_bytes) / trained == pytest.approx(
        figures["gathered_t_a_step"], rel=0.1
    )
    assert gathered.across_bytes * (1 - 1 / 64) / trained == pytest.approx(figures["between_nodes_t_a_step"], rel=0.03)
    calls = gathered + traffic.reductions
    assert calls.inside_calls + calls.across_calls == pytest.approx(figures["calls_a_micro_step"], rel=0.1)
