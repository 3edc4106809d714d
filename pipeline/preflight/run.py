"""Checks a cluster for a recipe before a run: subject after subject, each with a time limit and its own errors."""

import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from pipeline.config.preflight import SUBJECTS, PreflightSettings
from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError
from pipeline.launch.stage_inputs import stage_inputs
from pipeline.planning.recipe_plan import plan_recipe
from pipeline.preflight.assumed import assumed_of
from pipeline.preflight.clocks import clock_findings
from pipeline.preflight.context import Deadline, Preflight, with_workers, within
from pipeline.preflight.devices import host_here, judge_hosts
from pipeline.preflight.finding import Finding, Verdict, count_of, failed, worst
from pipeline.preflight.folders import folder_findings
from pipeline.preflight.group import NOT_MEASURED, Group, Part, run_parts
from pipeline.preflight.inputs import inputs_here, judge_inputs, judge_stages
from pipeline.preflight.nccl_log import log_environment
from pipeline.preflight.nodes import Answers, ask, cluster_nodes, one_line
from pipeline.preflight.ops import judge_ops, ops_here
from pipeline.preflight.parts import NetworkPart, StagePart
from pipeline.preflight.steps_verdict import planned_step, stage_failed
from pipeline.preflight.versions import judge_versions, own_requirements, versions_here
from pipeline.runs.paths import RunPaths
from pipeline.runtime.capacity import request_nodes, workers_that_fit
from pipeline.runtime.ray_connection import connect_to_ray
from pipeline.runtime.terminal import say

T = TypeVar("T")
QUICK_S, SLOW_S = 60.0, 240.0
"""Time limits of a probe that only asks, and of one that reads or compiles."""
ASK_AGAIN_S = 5.0
NO_ROOM = "see the nodes' finding"
NO_ANSWER = "look at `ray status`, and at Ray's logs on that node (/tmp/ray/session_latest/logs)"


@dataclass(frozen=True)
class Report:
    """The findings, and the seconds that the checks took without waiting for nodes."""

    findings: tuple[Finding, ...]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        return worst(self.findings)


def run_preflight(recipe: Recipe, paths: RunPaths, settings: PreflightSettings, only: Collection[str] = ()) -> Report:
    """Joins the cluster and makes the checks. It leaves nothing behind except files that training would make anyway:
    the stages' selections of rows, the converted vocabulary, and DeepSpeed's op.

    Args:
        recipe, paths: recipe and paths of the run.
        settings: stages, times, and assumed bandwidths.
        only: the subjects that are checked; empty for all.

    Raises:
        UsageError: the recipe is impossible; there is no such stage.
        OutageError: the cluster cannot be joined.
    """
    numbers = _numbers(recipe, settings.stage)
    plan = plan_recipe(recipe, numbers)
    assumed = assumed_of(recipe, numbers, settings)
    connect_to_ray()
    workers = _workers_with_room(recipe, settings.wait_minutes)
    has_room = workers == recipe.scaling.num_workers or 0 < recipe.scaling.min_workers <= workers
    findings = [_room(recipe, workers, has_room)]
    if has_room and workers != recipe.scaling.num_workers:
        recipe = with_workers(recipe, workers)
        plan, assumed = plan_recipe(recipe, numbers), assumed_of(recipe, numbers, settings)
    preflight = Preflight(
        recipe, replace(paths, recipe=recipe), plan, cluster_nodes(), assumed, has_room, Deadline(settings.minutes * 60)
    )
    wanted = [subject for subject in SUBJECTS if not only or subject in only]
    for subject in wanted:
        if subject in PROBES:
            findings += _checked([subject], partial(PROBES[subject], preflight), preflight)
    if in_group := [subject for subject in ("network", "steps") if subject in wanted]:
        findings += _checked(in_group, partial(_in_group, preflight, in_group), preflight)
    return Report(tuple(findings), preflight.deadline.spent_s())


def _checked(subjects: Sequence[str], probe: Callable[[], list[Finding]], preflight: Preflight) -> list[Finding]:
    """Makes the check of one or several subjects, with a line before and after it. Its error is a finding of each."""
    name = " and ".join(subjects)
    say(f"preflight: {name} ...")
    started = time.monotonic()
    if preflight.deadline.left_s() <= 0:
        remedy = "give more --minutes, or choose some subjects with --only"
        found = [failed(subject, "all", NOT_MEASURED, remedy) for subject in subjects]
    else:
        try:
            found = probe()
        except Exception as error:  # of any kind: one check must not hide the others
            found = [failed(subject, "the check itself", one_line(error), NO_ANSWER) for subject in subjects]
    seconds = time.monotonic() - started
    say(f"preflight: {name}: {worst(found).name.lower()}, {count_of(len(found), 'check')}, {seconds:.1f} s")
    return found


def _numbers(recipe: Recipe, text: str) -> list[int]:
    numbers = list(range(1, len(recipe.stages) + 1))
    if not numbers:
        raise UsageError(f"recipe {recipe.name!r} has no stages")
    if text == "all":
        return numbers
    if not text.isdigit() or int(text) not in numbers:
        raise UsageError(f"--stage {text!r}: recipe {recipe.name!r} has the stages 1 to {len(numbers)}, or say all")
    return [int(text)]


def _workers_with_room(recipe: Recipe, wait_minutes: float) -> int:
    """Waits until there is room for all workers, or until the time is over. Returns the number of workers that have
    room."""
    scaling, ends_at = recipe.scaling, time.monotonic() + 60 * wait_minutes
    fit = workers_that_fit(scaling.worker_needs, scaling.num_workers)
    if fit < scaling.num_workers and wait_minutes:
        say(f"preflight: waiting for {scaling.num_workers} workers, there is room for {fit}")
    while fit < scaling.num_workers and time.monotonic() < ends_at:
        request_nodes(scaling.worker_needs, scaling.num_workers)
        time.sleep(ASK_AGAIN_S)
        fit = workers_that_fit(scaling.worker_needs, scaling.num_workers)
    return fit


def _room(recipe: Recipe, workers: int, has_room: bool) -> Finding:
    scaling = recipe.scaling
    all_fit = workers == scaling.num_workers
    remedy = (
        "`ray status` shows who has the rest; on a cluster that starts nodes give --wait-minutes 20, else set "
        "scaling.num_workers"
    )
    return Finding(
        "nodes",
        f"room for workers of {scaling.worker_needs}",
        Verdict.OK if all_fit else Verdict.WARNING if has_room else Verdict.FAILED,
        count_of(workers, "worker"),
        count_of(scaling.num_workers, "worker"),
        remedy="" if all_fit else remedy,
        figures={"workers": workers, "wanted": scaling.num_workers},
    )


def _nodes(preflight: Preflight) -> list[Finding]:
    training = preflight.training_nodes
    said = f"{len(training)} of {len(preflight.nodes)} live nodes can hold workers"
    figures = {"nodes": [str(node) for node in training]}
    return [Finding("nodes", "nodes", Verdict.OK if training else Verdict.FAILED, said, figures=figures)]


def _versions(preflight: Preflight) -> list[Finding]:
    answers = ask(dict.fromkeys(preflight.checked_nodes, versions_here), preflight.limit_s(QUICK_S))
    return [*_unanswered("versions", answers), *judge_versions(answers.values, own_requirements())]


def _clocks(preflight: Preflight) -> list[Finding]:
    others = [node for node in preflight.checked_nodes if not node.is_drivers]
    return clock_findings(others, preflight.limit_s(QUICK_S))


def _devices(preflight: Preflight) -> list[Finding]:
    answers = ask(dict.fromkeys(preflight.training_nodes, host_here), preflight.limit_s(QUICK_S))
    return [*_unanswered("devices", answers), *judge_hosts(answers.values, preflight.needs())]


def _storage(preflight: Preflight) -> list[Finding]:
    findings = []
    for folder in preflight.folders():
        try_it = partial(folder_findings, folder, preflight.checked_nodes, QUICK_S)
        findings += within(preflight.limit_s(SLOW_S), try_it)
    return findings


def _inputs(preflight: Preflight) -> list[Finding]:
    _make_stage_runs(preflight)
    checked = [planned.number for planned in preflight.plan.stages]
    look = partial(inputs_here, preflight.inputs())
    answers = ask(dict.fromkeys(preflight.checked_nodes, look), preflight.limit_s(SLOW_S))
    found = [*_unanswered("inputs", answers), *judge_inputs(answers.values)]
    return [*judge_stages(preflight.stage_problems, checked), *found]


def _make_stage_runs(preflight: Preflight) -> None:
    """Makes the inputs of the workers of each stage, as training would."""
    for planned in preflight.plan.stages:
        make = partial(stage_inputs, planned.number, preflight.recipe, preflight.paths, None)
        try:
            inputs = within(preflight.limit_s(SLOW_S), make)
            preflight.stage_runs[planned.number] = inputs.stored()
        except Exception as error:  # of any kind: other stages may fit
            preflight.stage_problems[planned.number] = one_line(error)


def _ops(preflight: Preflight) -> list[Finding]:
    look = partial(ops_here, preflight.recipe.scaling.use_gpu)
    answers = ask(dict.fromkeys(preflight.training_nodes, look), preflight.limit_s(SLOW_S))
    return [*_unanswered("ops", answers), *judge_ops(answers.values)]


PROBES: dict[str, Callable[[Preflight], list[Finding]]] = {
    "nodes": _nodes,
    "versions": _versions,
    "clocks": _clocks,
    "devices": _devices,
    "storage": _storage,
    "inputs": _inputs,
    "ops": _ops,
}
"""What is asked of each node, or of the driver's. The other subjects are measured by a group of workers."""


def _in_group(preflight: Preflight, subjects: Collection[str]) -> list[Finding]:
    """Measures links and steps by workers like a stage's."""
    findings, parts = [], list[Part]()
    subject_of: dict[str, str] = {}
    if "network" in subjects:
        parts.append(NetworkPart({node.node_id: str(node) for node in preflight.nodes}, preflight.assumed))
        subject_of[parts[-1].name] = "network"
    if "steps" in subjects:
        if not preflight.stage_runs and not preflight.stage_problems:
            _make_stage_runs(preflight)
        scaling = preflight.recipe.scaling
        for planned in preflight.plan.stages:
            run = preflight.stage_runs.get(planned.number)
            if run is None:
                findings.append(stage_failed(planned.number, preflight.stage_problems[planned.number]))
                continue
            kinds = frozenset(kind.kind for kind in planned.work.kinds)
            seconds = preflight.assumed.step_s.get(planned.number)
            step = planned_step(planned, preflight.plan.device, scaling.num_workers, seconds)
            parts.append(StagePart(replace(run, verify_only=True), kinds, step))
            subject_of[parts[-1].name] = "steps"
    if not preflight.has_room:
        return findings + [
            failed(subject_of[part.name], part.name, "no room for the workers", NO_ROOM) for part in parts
        ]
    with TemporaryDirectory(prefix="mars-preflight-", ignore_cleanup_errors=True) as storage:
        environment = log_environment(uuid.uuid4().hex[:8]) if preflight.recipe.scaling.use_gpu else {}
        group = Group(preflight.recipe.scaling, Path(storage), environment, preflight.deadline.left_s, _say_part)
        outcome = run_parts(parts, group)
    for part in parts:
        findings += outcome.findings.get(part.name, [])
        if part.name in outcome.problems:
            findings.append(failed(subject_of[part.name], part.name, outcome.problems[part.name], NO_ANSWER))
    return findings


def _say_part(name: str) -> None:
    say(f"preflight: {name} ...")


def _unanswered(subject: str, answers: Answers[T]) -> list[Finding]:
    return [failed(subject, "this node", error, NO_ANSWER, str(node)) for node, error in answers.errors.items()]
