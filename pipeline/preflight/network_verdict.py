"""Judges the ranks' measurements of their links and of their own speed. The shares are this project's own choice."""

from collections.abc import Mapping, Sequence

from pipeline.planning.assumed_rates import Range
from pipeline.preflight.assumed import Assumed
from pipeline.preflight.finding import Finding, Verdict, count_of, failed, verdict_of_share, with_unit
from pipeline.preflight.network import RankReport

SUBJECT = "network"
SLOW_RANK = {"cuda": (0.9, 0.7), "cpu": (0.6, 0.4)}
"""Shares of the fastest rank's computing speed below which a node gives a warning, and fails. CPUs are shared with
other programs."""
SLOW_LINK = (0.7, 0.35)
"""The same for its exchange with another node, of the fastest node's."""
BELOW_PLAN = (1.0, 0.5)
"""The same for bandwidths, of the lowest that the plan assumes."""
OPERATIONS = ("all-reduce", "all-gather")


def judge_network(
    reports: Sequence[RankReport], names: Mapping[str, str], device_type: str, assumed: Assumed
) -> list[Finding]:
    """Judges the reports of all ranks.

    Args:
        reports: of every rank.
        names: the nodes' names by id.
        device_type: `cuda` or `cpu`.
        assumed: what the plan assumes of the links.
    """
    of_node: dict[str, list[RankReport]] = {}
    for report in reports:
        of_node.setdefault(names.get(report.node, report.node[:8]), []).append(report)
    findings = [*_speeds(of_node, device_type), *_bandwidths(of_node, assumed), *_partners(of_node)]
    return findings + (_networks(of_node) if device_type == "cuda" else _gloo(of_node))


ByNode = Mapping[str, Sequence[RankReport]]


def _speeds(of_node: ByNode, device_type: str) -> list[Finding]:
    slowest = {node: min(report.flop_per_s for report in reports) for node, reports in of_node.items()}
    fastest = max(report.flop_per_s for reports in of_node.values() for report in reports)
    found = []
    for node, speed in slowest.items():
        verdict = verdict_of_share(speed / fastest, SLOW_RANK[device_type])
        reasons = sorted({reason for report in of_node[node] for reason in report.slowed_by})
        if reasons and not verdict:
            verdict = Verdict.WARNING
        remedy = "every rank waits for this node: end what else runs there, look at cooling and power, or leave it out"
        found.append(
            Finding(
                SUBJECT,
                "computing speed, slowest rank",
                verdict,
                with_unit(speed, "FLOP/s") + (f", slowed by {', '.join(reasons)}" if reasons else ""),
                f"fastest rank {with_unit(fastest, 'FLOP/s')}",
                node,
                remedy if verdict else "",
                {"flop_per_s": speed, "fastest_flop_per_s": fastest},
            )
        )
    return found


def _bandwidths(of_node: ByNode, assumed: Assumed) -> list[Finding]:
    found = []
    for operation in OPERATIONS:
        inside = _least(of_node, operation, between=False)
        between = _least(of_node, operation, between=True)
        for where, least, expected, remedy in (
            ("inside a node, a rank", inside, assumed.inside_bytes_per_s, "look at NVLink: nvidia-smi topo -m"),
            ("between nodes, a node", between, assumed.between_bytes_per_s, "look at the network's finding below"),
        ):
            if least is not None:
                found.append(_bandwidth(f"{operation} {where}", *least, expected, assumed.machine, remedy))
    return found


def _least(of_node: ByNode, operation: str, between: bool) -> tuple[str, float] | None:
    """Returns the node with the lowest bandwidth, and that bandwidth. Between nodes it is the sum over the node's
    ranks, which send at once; inside a node it is that of the slowest rank."""
    by_node = {}
    for node, reports in of_node.items():
        of_ranks = [(report.between if between else report.inside)[operation] for report in reports]
        values = [value for value in of_ranks if value is not None]
        if values:
            by_node[node] = sum(values) if between else min(values)
    return min(by_node.items(), key=lambda item: item[1]) if by_node else None


def _bandwidth(what: str, node: str, rate: float, expected: Range | None, machine: str, remedy: str) -> Finding:
    measured = f"{with_unit(rate, 'B/s')} at the slowest"
    if expected is None:
        return Finding(SUBJECT, what, Verdict.OK, measured, "nothing assumed", node, figures={"bytes_per_s": rate})
    verdict = verdict_of_share(rate / expected.low, BELOW_PLAN)
    said = f"{with_unit(expected.low, 'B/s')} to {with_unit(expected.high, 'B/s')} assumed of {machine}"
    figures = {"bytes_per_s": rate, "assumed_low_bytes_per_s": expected.low, "assumed_high_bytes_per_s": expected.high}
    return Finding(SUBJECT, what, verdict, measured, said, node, remedy if verdict else "", figures)


def _partners(of_node: ByNode) -> list[Finding]:
    rates = {
        node: max(report.exchanged_bytes_per_s for report in reports if report.exchanged_bytes_per_s is not None)
        for node, reports in of_node.items()
        if any(report.exchanged_bytes_per_s is not None for report in reports)
    }
    found, fastest = [], max(rates.values(), default=0.0)
    for node, rate in rates.items():
        verdict = verdict_of_share(rate / fastest, SLOW_LINK)
        remedy = "look at this node's network cards and its place in the placement group; or leave it out"
        measured, expected = with_unit(rate, "B/s"), f"fastest node {with_unit(fastest, 'B/s')}"
        figures = {"bytes_per_s": rate, "fastest_bytes_per_s": fastest}
        what = "exchange with the best partner node"
        found.append(Finding(SUBJECT, what, verdict, measured, expected, node, remedy if verdict else "", figures))
    return found


def _networks(of_node: ByNode) -> list[Finding]:
    """Judges which network NCCL took on each node."""
    return [_network(node, reports, len(of_node)) for node, reports in of_node.items()]


def _network(node: str, reports: Sequence[RankReport], num_nodes: int) -> Finding:
    what, taken, efa = "network that NCCL took", sorted({str(report.network) for report in reports}), reports[0].efa
    measured = "; ".join(taken)
    if efa:
        expected = f"EFA, on {', '.join(efa)}"
        if all(report.network.is_efa for report in reports):
            return Finding(SUBJECT, what, Verdict.OK, measured, expected, node)
        remedy = (
            "NCCL does not use EFA: look for NET/OFI in the log with NCCL_DEBUG=INFO; the plugin must be on "
            'LD_LIBRARY_PATH, and /dev/infiniband in the container; NCCL_NET="AWS Libfabric" makes it an error'
        )
        return Finding(SUBJECT, what, Verdict.FAILED, measured, expected, node, remedy)
    if num_nodes == 1:
        return Finding(SUBJECT, what, Verdict.OK, measured, "none is needed inside one node", node)
    if not any(report.network.name for report in reports):
        return failed(SUBJECT, what, "NCCL's log does not say", "run the job with NCCL_DEBUG=INFO and read it", node)
    tcp = any(report.network.name == "Socket" for report in reports)
    remedy = "training goes over TCP: start nodes with EFA, InfiniBand or RoCE, or accept it" if tcp else ""
    return Finding(SUBJECT, what, Verdict.WARNING if tcp else Verdict.OK, measured, "no EFA there", node, remedy)


def _gloo(of_node: ByNode) -> list[Finding]:
    count = sum(len(reports) for reports in of_node.values())
    said = f"gloo over TCP, {count} ranks on {count_of(len(of_node), 'node')}; there is no NCCL"
    return [Finding(SUBJECT, "network of the ranks", Verdict.OK, said)]
