"""The findings of a preflight as a table for a person, a verdict in one line, and one JSON object."""

from collections import Counter
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.preflight.finding import Verdict, count_of
from pipeline.preflight.run import Report
from pipeline.runtime.terminal import tables_to

STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "bold red"}


def show(report: Report, as_json: bool) -> None:
    """Prints the table, then what to do about each warning and failure, then the verdict."""
    console = tables_to(as_json)
    console.print(findings_table(report))
    if any(finding.remedy for finding in report.findings):
        console.print(remedies_table(report))
    console.print(Text(verdict_line(report), style=STYLES[report.verdict]))


def findings_table(report: Report) -> Table:
    """Returns all findings, in the order of the checks."""
    table = Table("check", "node", "verdict", "measured", "expected", title="Preflight", show_lines=False)
    subject = ""
    for finding in report.findings:
        if finding.subject != subject:
            table.add_section()
            subject = finding.subject
        verdict = Text(finding.verdict.name.lower(), style=STYLES[finding.verdict])
        cells = (f"{subject}: {finding.what}", finding.node, finding.measured, finding.expected)
        what, node, measured, expected = map(Text, cells)
        table.add_row(what, node, verdict, measured, expected)
    return table


def remedies_table(report: Report) -> Table:
    """Returns what to do, once for nodes with the same finding."""
    table = Table("what", "where", "what to do", title="What to do")
    where: dict[tuple[str, str, str], list[str]] = {}
    for finding in sorted(report.findings, key=lambda each: -each.verdict):
        if finding.remedy:
            key = (f"{finding.subject}: {finding.what}", finding.remedy, finding.verdict.name)
            where.setdefault(key, []).append(finding.node)
    for (what, remedy, verdict), nodes in where.items():
        style = STYLES[Verdict[verdict]]
        table.add_row(Text(what, style=style), Text(", ".join(filter(None, nodes))), Text(remedy))
    return table


def verdict_line(report: Report) -> str:
    """Returns the verdict in one line."""
    counts = Counter(finding.verdict for finding in report.findings)
    checks = f"{count_of(len(report.findings), 'check')} in {report.seconds:.0f} s"
    if report.verdict is Verdict.OK:
        return f"ready: {checks}, all passed"
    said = f"{checks}: {counts[Verdict.FAILED]} failed, {count_of(counts[Verdict.WARNING], 'warning')}"
    return f"not ready: {said}" if report.verdict is Verdict.FAILED else f"ready, with warnings: {said}"


def as_object(recipe: str, report: Report) -> dict[str, Any]:
    """Returns the findings as plain values."""
    return {
        "recipe": recipe,
        "verdict": report.verdict.name.lower(),
        "seconds": report.seconds,
        "findings": [finding.to_json() for finding in report.findings],
    }


def not_well(report: Report) -> list[str]:
    """Returns the subjects with the worst verdict, if that is not OK."""
    of_worst = [finding.subject for finding in report.findings if finding.verdict is report.verdict is not Verdict.OK]
    return list(dict.fromkeys(of_worst))
