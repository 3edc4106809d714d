"""The time from a kill to the next step, from the kills and the starts of the attempts after them."""

import json
from pathlib import Path

import pytest

from pipeline.benchmarks.fault_injection import Kill
from pipeline.benchmarks.recovery import recoveries, recovery_figures
from pipeline.step_figures import METRICS_FILE, AttemptStart, StepFigures

PARTS = {"workers": 4.0, "model": 2.0, "checkpoint": 0.5, "step": 1.5}


def kill(kind: str, at: float) -> Kill:
    return Kill(kind, pid=1, phase="training", step=1, at_s=at, at=at)


def start(at: float) -> AttemptStart:
    return AttemptStart(at, PARTS)


def test_a_recovery_lasts_from_the_kill_to_the_first_step_of_the_next_attempt() -> None:
    (found,) = recoveries([kill("worker", 100.0)], [start(10.0), start(102.0), start(200.0)])
    assert found.kind == "worker" and found.seconds == 10.0
    assert found.parts == {"attempt": 2.0, **PARTS}


def test_a_kill_that_another_one_follows_before_a_step_is_counted_with_that_one() -> None:
    (found,) = recoveries([kill("node", 100.0), kill("driver", 105.0)], [start(102.0), start(111.0)])
    assert found.kind == "driver" and found.parts["attempt"] == 6.0


def test_a_kill_without_a_later_step_is_left_out() -> None:
    assert recoveries([kill("driver", 100.0)], [start(50.0)]) == []


def test_the_figures_have_median_and_worst_by_kind_from_the_stages_file(tmp_path: Path) -> None:
    starts = {5: start(101.0), 7: start(204.0), 9: start(303.0)}
    lines = [StepFigures(step=step, start=starts.get(step)).to_json() for step in range(1, 11)]
    (tmp_path / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = recovery_figures([kill("worker", 100.0), kill("worker", 200.0), kill("node", 300.0)], tmp_path)
    assert set(figures) == {"worker", "node"}
    assert figures["worker"]["recoveries"] == 2 and figures["worker"]["worst_s"] == 12.0
    assert figures["worker"]["median_s"] == pytest.approx(10.5)
    assert figures["worker"]["parts_s"] == {"attempt": 2.5, **PARTS}
