"""Links are measured and steps run twice on real ranks, without Ray: what differs is found, and nothing is left."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from jobs.common.recipes import load_recipe
from pipeline.config.tasks import Kind
from pipeline.launch.stage_inputs import stage_inputs
from pipeline.planning.assumed_rates import Range
from pipeline.planning.recipe_plan import plan_recipe
from pipeline.preflight.assumed import Assumed
from pipeline.preflight.finding import Finding, Verdict
from pipeline.preflight.network import RankReport, measure_network
from pipeline.preflight.network_verdict import judge_network
from pipeline.preflight.steps import StageReport, measure_stage
from pipeline.preflight.steps_verdict import judge_stage, planned_step
from pipeline.runs.paths import run_paths
from pipeline.training.stage_run import StageRun
from tests.support.faults import add_otherwise_the_second_time
from tests.support.past_run import RECIPE, copy_past_run
from tests.support.ports import free_port
from tests.support.ranks import join, spawn

pytestmark = pytest.mark.slow
STAGE_1 = frozenset({Kind.TEXT_TO_IMAGE, Kind.CAPTIONING, Kind.INTERLEAVED})
STAGE_2 = STAGE_1 | {Kind.HIGH_RESOLUTION}


@dataclass(frozen=True)
class Measured:
    """Rank 0's measurements: the network, a stage, and a stage in which rank 1 computes otherwise the second time."""

    network: list[RankReport]
    good: StageReport
    bad: StageReport
    written: list[str]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("steps") / "copy"
    copy_past_run(folder)
    recipe = load_recipe(str(folder / "recipe.py"))
    paths = run_paths(str(folder), recipe)
    runs = [stage_inputs(number, recipe, paths, None).run for number in (1, 2)]
    before = set(folder.rglob("*"))
    spawn(_rank, 2, free_port(), runs, folder.parent / "measured.pt")
    written = sorted(str(path) for path in set(folder.rglob("*")) - before)
    # Written by this test's own process.
    network, good, bad = torch.load(folder.parent / "measured.pt", weights_only=False)
    return Measured(network, good, bad, written)


def _rank(rank: int, port: int, runs: list[StageRun], result: Path) -> None:
    join(rank, 2, port)
    device = torch.device("cpu")
    network = measure_network(f"node{rank}", device)
    good = measure_stage(runs[0], STAGE_1, device)
    add_otherwise_the_second_time(rank, 0)
    bad = measure_stage(runs[1], STAGE_2, device)
    if rank == 0:
        torch.save((network, good, bad), result)
    dist.barrier()
    os._exit(0)  # the process groups that DeepSpeed made would wait for each other at exit


def judged(report: StageReport, number: int) -> list[Finding]:
    plan = plan_recipe(load_recipe(str(RECIPE)), [number])
    return judge_stage(report, planned_step(plan.stages[0], plan.device, 2, None))


def test_every_kind_of_the_stage_is_run_twice_and_is_the_same(measured: Measured) -> None:
    kinds = [step.kinds for step in measured.good.steps]
    assert kinds == [
        ("text_to_image", "captioning", "interleaved"),
        ("text_to_image",),
        ("captioning",),
        ("interleaved",),
    ]
    for step in measured.good.steps:
        first, second = step.comparison.gradient_norms
        assert step.comparison.is_same and first == second > 0
        assert step.seconds > 0 and step.flop > 0 and step.peak_bytes > 0
    assert measured.good.missing == ()
    assert {finding.verdict for finding in judged(measured.good, 1)} == {Verdict.OK}


def test_a_rank_that_computes_otherwise_the_second_time_fails_the_stage(measured: Measured) -> None:
    assert not measured.bad.steps[0].is_tolerated
    assert measured.bad.steps[0].comparison.odd_ranks == (1,)
    found = next(finding for finding in judged(measured.bad, 2) if finding.verdict is Verdict.FAILED)
    assert "the losses of rank 1 differ" in found.measured and found.remedy


def test_nothing_is_written(measured: Measured) -> None:
    assert measured.written == []


def test_links_between_two_nodes_of_one_rank_are_measured(measured: Measured) -> None:
    for number, report in enumerate(measured.network):
        assert (report.rank, report.node) == (number, f"node{number}")
        assert report.inside == {"all-reduce": None, "all-gather": None}
        rates = [*report.between.values(), report.exchanged_bytes_per_s]
        assert all(rate and rate > 1e6 for rate in rates) and report.flop_per_s > 1e8
    found = judge_network(
        measured.network, {"node0": "a", "node1": "b"}, "cpu", Assumed(between_bytes_per_s=Range(1e15, 1e15, 1e15))
    )
    slow = [finding for finding in found if "between nodes" in finding.what]
    assert len(slow) == 2 and {finding.verdict for finding in slow} == {Verdict.FAILED}
