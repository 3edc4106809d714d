"""A step takes as long as the slowest of what overlaps, and what cannot overlap is added."""

from dataclasses import replace

import pytest

from pipeline.planning.step_time import LinkRates, Overlap, Phase, Traffic, step_time

LINKS = LinkRates(16, 8, inside_bytes_per_s=100.0, between_bytes_per_s=10.0, inside_call_s=0.0, across_call_s=0.0)
PHASE = Phase("backward", compute_s=2.0, host_s=1.0)


def test_a_step_without_collectives_takes_what_its_device_computes() -> None:
    step = step_time([PHASE, PHASE], LINKS, Overlap())
    assert step.seconds == step.compute_s == 4.0 and step.binds == "compute"


@pytest.mark.parametrize(
    "phase, seconds, binds",
    [
        (replace(PHASE, host_s=3.0), 3.0, "host"),
        (replace(PHASE, gathers=Traffic(inside_bytes=400 * 8 / 7)), 4.0, "links inside nodes"),
        (replace(PHASE, gathers=Traffic(across_bytes=50 * 16 / 15)), 5.0, "network"),
        (replace(PHASE, exposed=Traffic(across_bytes=30 * 16 / 15)), 5.0, "exposed"),
    ],
    ids=["host", "inside", "network", "exposed"],
)
def test_the_slowest_part_sets_the_time_and_is_named(phase: Phase, seconds: float, binds: str) -> None:
    step = step_time([phase], LINKS, Overlap())
    assert step.seconds == pytest.approx(seconds) and step.binds == binds


def test_what_a_platform_does_not_overlap_is_added() -> None:
    phase = replace(PHASE, reductions=Traffic(across_bytes=10 * 16 / 15))
    assert step_time([phase], LINKS, Overlap()).seconds == pytest.approx(2.0)
    assert step_time([phase], LINKS, Overlap(reductions=False)).seconds == pytest.approx(3.0)


def test_kernels_slow_down_while_collectives_run() -> None:
    phase = replace(PHASE, gathers=Traffic(across_bytes=10 * 16 / 15))
    assert step_time([phase], LINKS, Overlap(slowdown=0.1)).seconds == pytest.approx(2.1)


def test_calls_cost_time_however_little_they_move() -> None:
    links = replace(LINKS, across_call_s=0.5)
    phase = replace(PHASE, gathers=Traffic(across_calls=8))
    assert step_time([phase], links, Overlap()).seconds == pytest.approx(4.0)


def test_one_node_uses_no_network() -> None:
    phase = replace(PHASE, gathers=Traffic(across_bytes=1e6))
    assert replace(LINKS, ranks=8).between_seconds(phase.gathers) == 0.0
