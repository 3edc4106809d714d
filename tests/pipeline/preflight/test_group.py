"""A measurement that fails or hangs does not end the others."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from pipeline.config.scaling import ScalingConfig
from pipeline.preflight import group as group_module
from pipeline.preflight.context import Deadline, within
from pipeline.preflight.finding import Finding, Verdict
from pipeline.preflight.group import START_LIMIT_S, Group, Part, _Watch, run_parts
from pipeline.preflight.monitor import Progress


@dataclass(frozen=True)
class Measurement:
    name: str
    is_last: bool = False
    limit_s: float = 60.0

    def run(self, node: str, device: torch.device) -> list[Finding]:
        return [Finding("steps", self.name, Verdict.OK, "done")]


class Groups:
    """Stands for groups of workers. Those of the parts in `failing` end; in `stuck`, they stay."""

    def __init__(self, failing: Sequence[str] = (), stuck: Sequence[str] = ()) -> None:
        self.failing, self.stuck = failing, stuck
        self.started: list[list[str]] = []
        self.left_s = 100.0
        self.group = Group(ScalingConfig(), Path("unused"), {}, lambda: self.left_s, lambda name: None)

    def run(self, parts: Sequence[Part], group: Group) -> tuple[dict[str, list[Finding]], str, bool]:
        self.started.append([part.name for part in parts])
        findings: dict[str, list[Finding]] = {}
        for part in parts:
            if part.name in self.failing or part.name in self.stuck:
                return findings, "rank 1: out of memory", part.name not in self.stuck
            findings[part.name] = part.run("node", torch.device("cpu"))
        return findings, "", True


PARTS = [Measurement("network"), Measurement("stage 1", is_last=True), Measurement("stage 2", is_last=True)]


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Groups:
    groups = Groups()
    monkeypatch.setattr(group_module, "_run_group", groups.run)
    return groups


def test_a_stage_gets_workers_whose_memory_no_stage_before_it_has_filled(groups: Groups) -> None:
    outcome = run_parts(PARTS, groups.group)
    assert groups.started == [["network", "stage 1"], ["stage 2"]]
    assert list(outcome.findings) == ["network", "stage 1", "stage 2"] and not outcome.problems


def test_after_a_part_that_fails_other_workers_go_on(groups: Groups) -> None:
    groups.failing = ["network"]
    outcome = run_parts(PARTS, groups.group)
    assert groups.started == [["network", "stage 1"], ["stage 1"], ["stage 2"]]
    assert outcome.problems == {"network": "rank 1: out of memory"} and list(outcome.findings) == ["stage 1", "stage 2"]


def test_where_workers_do_not_end_the_rest_counts_as_not_measured(groups: Groups) -> None:
    groups.stuck = ["stage 1"]
    outcome = run_parts(PARTS, groups.group)
    assert list(outcome.findings) == ["network"] and outcome.problems.keys() == {"stage 1", "stage 2"}
    assert outcome.problems["stage 2"].startswith("not measured")


def test_what_there_was_no_time_for_counts_as_not_measured(groups: Groups) -> None:
    groups.left_s = 0.0
    outcome = run_parts(PARTS, groups.group)
    assert groups.started == [] and outcome.problems.keys() == {part.name for part in PARTS}


def test_a_hanging_part_is_told_from_workers_that_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = [1000.0]
    monkeypatch.setattr(group_module.time, "monotonic", lambda: clock[0])
    watch = _Watch(PARTS, replace(Groups().group, log=said.append))
    assert watch.late(Progress(joined=1)) == ""
    clock[0] += START_LIMIT_S + 1
    assert watch.late(Progress(joined=1)) == "only 1 of 2 workers started within 181 s"
    assert watch.late(Progress(joined=2, under_way="network")) == "" and said == ["network"]
    clock[0] += 61
    assert "took longer than 61 s" in watch.late(Progress(joined=2, under_way="network"))
    assert watch.late(Progress(joined=2, under_way="stage 1")) == "", "each part has its own time"


def test_a_check_that_hangs_is_left_behind() -> None:
    deadline = Deadline(60)
    with pytest.raises(TimeoutError, match="no answer within 0 s"):
        within(0.05, lambda: time.sleep(5))
    assert deadline.spent_s() < 4
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
