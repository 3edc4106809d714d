"""The verdict, the table and the object say the same."""

import json

import pytest
from rich.console import Console

from pipeline.preflight.finding import Finding, Verdict, failed
from pipeline.preflight.run import Report
from pipeline.reports.preflight_table import as_object, findings_table, not_well, remedies_table, verdict_line

OK = Finding("versions", "packages", Verdict.OK, "alike", figures={"count": 3})
WARNING = Finding("network", "speed", Verdict.WARNING, "1 GB/s", "2 GB/s", "first", "look at it [here]")
FAILED = failed("storage", "room", "0 B free", "make room", "second")


@pytest.mark.parametrize(
    ("findings", "verdict", "line"),
    [
        ((OK,), Verdict.OK, "ready: 1 check in 7 s, all passed"),
        ((OK, WARNING), Verdict.WARNING, "ready, with warnings: 2 checks in 7 s: 0 failed, 1 warning"),
        ((OK, FAILED, WARNING), Verdict.FAILED, "not ready: 3 checks in 7 s: 1 failed, 1 warning"),
    ],
)
def test_the_worst_finding_decides(findings: tuple[Finding, ...], verdict: Verdict, line: str) -> None:
    report = Report(findings, 7.0)
    assert report.verdict is verdict and verdict_line(report) == line
    assert json.loads(json.dumps(as_object("demo", report)))["verdict"] == verdict.name.lower()


def test_every_finding_is_in_the_table_and_every_remedy_once_for_all_its_nodes() -> None:
    other = failed("storage", "room", "0 B free", "make room", "third")
    report = Report((OK, WARNING, FAILED, other), 7.0)
    console = Console(width=160, record=True)
    console.print(findings_table(report))
    console.print(remedies_table(report))
    shown = console.export_text()
    assert shown.count("0 B free") == 2 and "versions: packages" in shown
    assert shown.count("make room") == 1 and "second, third" in shown
    assert "look at it [here]" in shown, "brackets are no markup"
    assert shown.index("make room") < shown.index("look at it"), "failures come first"


def test_the_subjects_that_failed_are_named_in_the_error() -> None:
    assert not_well(Report((OK, WARNING, FAILED), 1.0)) == ["storage"]
    assert not_well(Report((OK, WARNING), 1.0)) == ["network"] and not_well(Report((OK,), 1.0)) == []
