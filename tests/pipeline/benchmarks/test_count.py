"""What a step of `mars_7b` asks of host and network stays within its bounds, by real code on fake ranks."""

import json
import os

import pytest

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
    assert figures["volume_over_ideal"] <= 1.25
    assert figures["host_over_plain"] > 0
