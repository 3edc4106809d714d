"""The result of a check."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Verdict(IntEnum):
    """The verdict of a check. The larger one is the worse one."""

    OK = 0
    WARNING = 1
    """A run works, but slower or with less room than planned."""
    FAILED = 2
    """A run would fail, compute wrongly or be far slower; or the check could not be made."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        subject: one of `pipeline.preflight.run.SUBJECTS`.
        what: what was checked.
        verdict: the verdict.
        measured: what was found, with units.
        expected: what it is compared with; empty if with nothing.
        node: the node that it is about; empty for the cluster.
        remedy: what to do, in one line; empty if the verdict is OK.
        figures: the measured values, for programs; names include the units.
    """

    subject: str
    what: str
    verdict: Verdict
    measured: str
    expected: str = ""
    node: str = ""
    remedy: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; the verdict by its name in lower case."""
        values = {name: getattr(self, name) for name in ("subject", "what", "measured", "expected", "node", "remedy")}
        return values | {"verdict": self.verdict.name.lower(), "figures": dict(self.figures)}


def failed(subject: str, what: str, measured: str, remedy: str, node: str = "") -> Finding:
    """Returns the finding of a check that failed, or that could not be made, without figures."""
    return Finding(subject, what, Verdict.FAILED, measured, node=node, remedy=remedy)


def verdict_of_share(share: float, limits: tuple[float, float]) -> Verdict:
    """Returns the verdict of a share of what is expected, by the limits below which it is a warning, and a failure."""
    warning, failing = limits
    return Verdict.FAILED if share < failing else Verdict.WARNING if share < warning else Verdict.OK


def count_of(count: int, word: str) -> str:
    """Returns a number with a word in the singular or the plural: 1 node, 2 nodes."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def with_unit(value: float, unit: str) -> str:
    """Returns a value with three digits, the unit and its prefix: 627 MB/s for 6.27e8 and `B/s`."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def worst(findings: Iterable[Finding]) -> Verdict:
    """Returns the worst verdict, OK if there are no findings."""
    return max((finding.verdict for finding in findings), default=Verdict.OK)
