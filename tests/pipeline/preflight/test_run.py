"""Every subject that is asked for has a finding, also where its check breaks or the time is over."""

from collections.abc import Sequence
from functools import partial

import pytest

from jobs.common.recipes import load_recipe
from pipeline.config.preflight import SUBJECTS, PreflightSettings
from pipeline.preflight import run
from pipeline.preflight.context import Preflight
from pipeline.preflight.finding import Finding, Verdict
from pipeline.runs.paths import run_paths
from tests.support.past_run import RECIPE
from tests.support.preflight import node


@pytest.fixture(autouse=True)
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of two nodes of one CPU each, whose probes all answer "well"."""

    monkeypatch.setattr(run, "connect_to_ray", lambda: None)
    monkeypatch.setattr(run, "workers_that_fit", lambda resources, most: most)
    monkeypatch.setattr(run, "cluster_nodes", lambda: [node("head", True, CPU=1.0), node("first", CPU=1.0)])
    for subject in run.PROBES:
        monkeypatch.setitem(run.PROBES, subject, partial(_well, subject))
    monkeypatch.setattr(run, "_in_group", _all_well)


def _well(subject: str, preflight: Preflight) -> list[Finding]:
    return [Finding(subject, "all", Verdict.OK, "well")]


def _all_well(preflight: Preflight, subjects: Sequence[str]) -> list[Finding]:
    return [finding for subject in subjects for finding in _well(subject, preflight)]


def checked(*only: str, minutes: float = 10.0) -> dict[str, list[Finding]]:
    recipe = load_recipe(str(RECIPE))
    report = run.run_preflight(recipe, run_paths("unused", recipe), PreflightSettings(minutes=minutes), only)
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.subject, []).append(finding)
    return found


def test_all_subjects_are_checked_or_only_the_chosen_ones() -> None:
    assert list(checked()) == list(SUBJECTS)
    assert list(checked("storage", "steps")) == ["nodes", "storage", "steps"], "room is always told"


def test_a_check_that_breaks_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(preflight: object) -> list[Finding]:
        raise KeyError("unforeseen")

    monkeypatch.setitem(run.PROBES, "devices", broken)
    found = checked()
    assert list(found) == list(SUBJECTS)
    assert [finding.verdict for finding in found["devices"]] == [Verdict.FAILED]
    assert "KeyError: 'unforeseen'" in found["devices"][0].measured and found["storage"][0].verdict is Verdict.OK


def test_what_there_was_no_time_for_is_failed_and_not_left_out() -> None:
    found = checked(minutes=1e-9)
    assert list(found) == list(SUBJECTS)
    assert all(found[subject][-1].verdict is Verdict.FAILED and found[subject][-1].remedy for subject in SUBJECTS)


def test_too_little_room_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "workers_that_fit", lambda resources, most: 1)
    (room, _) = checked("nodes")["nodes"]
    assert room.verdict is Verdict.FAILED and room.measured == "1 worker" and "--wait-minutes" in room.remedy
