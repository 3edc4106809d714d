"""Differences between the nodes' clocks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.preflight.finding import Finding, Verdict, failed
from pipeline.preflight.nodes import Node, ask

SUBJECT = "clocks"
ROUNDS = 3
WARNING_S, FAILED_S = 1.0, 60.0
"""Ledgers, locks of compilations and logs compare times of several machines within seconds to minutes, and S3 refuses a
request whose clock is 15 minutes off."""
REMEDY = "set up NTP there (chrony, systemd-timesyncd)"


@dataclass(frozen=True)
class Offset:
    """A node's clock minus the driver's, and by how much that can be wrong, in seconds."""

    seconds: float
    uncertainty_s: float


def clock_findings(nodes: Sequence[Node], limit_s: float) -> list[Finding]:
    """Measures and judges the offset of each node's clock."""
    findings = []
    for node in nodes:
        best: Offset | None = None
        for _ in range(ROUNDS):  # the first answer also waits for a process
            asked = time.time()
            answers = ask({node: time.time}, limit_s)
            got = time.time()
            if node not in answers.values:
                findings.append(failed(SUBJECT, "clock", answers.errors[node], "look at `ray status`", str(node)))
                break
            offset = Offset(answers.values[node] - (asked + got) / 2, (got - asked) / 2)
            best = offset if best is None or offset.uncertainty_s < best.uncertainty_s else best
        else:
            assert best is not None
            findings.append(judge_offset(node, best))
    return findings


def judge_offset(node: Node, offset: Offset) -> Finding:
    """Judges the part of an offset that is certain."""
    certain = max(0.0, abs(offset.seconds) - offset.uncertainty_s)
    verdict = Verdict.FAILED if certain > FAILED_S else Verdict.WARNING if certain > WARNING_S else Verdict.OK
    return Finding(
        SUBJECT,
        "clock beside the driver's",
        verdict,
        f"{offset.seconds:+.3f} s, to within {offset.uncertainty_s:.3f} s",
        f"within {WARNING_S:g} s",
        str(node),
        REMEDY if verdict else "",
        {"offset_s": offset.seconds, "uncertainty_s": offset.uncertainty_s},
    )
