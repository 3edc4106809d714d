"""Slow nodes, slow links and a fall back to TCP are told, each with the node that it is about."""

from dataclasses import replace

import pytest

from jobs.common.recipes import load_recipe
from pipeline.config.preflight import PreflightSettings
from pipeline.planning.assumed_rates import Range
from pipeline.preflight.assumed import Assumed, assumed_of
from pipeline.preflight.finding import Finding, Verdict
from pipeline.preflight.nccl_log import Network
from pipeline.preflight.network import RankReport, across, pairs_of_round
from pipeline.preflight.network_verdict import judge_network

EFA = Network("AWS Libfabric", "efa", gpu_direct=True)
A100 = Assumed("p4de.24xlarge", Range(195e9, 219e9, 234e9), Range(25e9, 35e9, 42.5e9))


def ranks(nodes: int = 3, per_node: int = 2) -> list[RankReport]:
    """Reports of healthy ranks, with 2 GPUs a node."""
    rates = {"all-reduce": 230e9, "all-gather": 220e9}
    between = {"all-reduce": 20e9, "all-gather": 19e9}
    return [
        RankReport(
            rank=number,
            node=f"node{number // per_node}",
            flop_per_s=250e12,
            inside=dict(rates),
            between=dict(between),
            exchanged_bytes_per_s=11e9 if number % per_node == 0 else None,
            network=EFA,
            efa=("rdmap16s27",),
        )
        for number in range(nodes * per_node)
    ]


def odd(found: list[Finding]) -> list[tuple[str, str, Verdict]]:
    assert all(finding.remedy for finding in found if finding.verdict)
    return [(finding.what, finding.node, finding.verdict) for finding in found if finding.verdict]


def judged(reports: list[RankReport], device: str = "cuda", assumed: Assumed = A100) -> list[Finding]:
    return judge_network(reports, {report.node: f"{report.node} name" for report in reports}, device, assumed)


def test_healthy_links_are_shown_beside_what_was_assumed() -> None:
    found = judged(ranks())
    assert odd(found) == []
    said = {finding.what: (finding.measured, finding.expected) for finding in found}
    assert said["all-reduce between nodes, a node"] == (
        "40 GB/s at the slowest",
        "25 GB/s to 42.5 GB/s assumed of p4de.24xlarge",
    )
    assert said["all-gather inside a node, a rank"] == (
        "220 GB/s at the slowest",
        "195 GB/s to 234 GB/s assumed of p4de.24xlarge",
    )


@pytest.mark.parametrize(("share", "verdict"), [(0.8, Verdict.WARNING), (0.5, Verdict.FAILED)])
def test_the_slow_node_is_named(share: float, verdict: Verdict) -> None:
    reports = ranks()
    reports[3] = replace(reports[3], flop_per_s=share * 250e12)
    assert odd(judged(reports)) == [("computing speed, slowest rank", "node1 name", verdict)]


def test_a_gpu_whose_clocks_are_lowered_under_load_is_a_warning() -> None:
    reports = ranks()
    reports[5] = replace(reports[5], slowed_by=("power brake",))
    (found,) = odd(judged(reports))
    assert found[1:] == ("node2 name", Verdict.WARNING)


def test_a_node_with_a_slow_link_is_told_from_its_partners() -> None:
    reports = ranks()
    reports[2] = replace(reports[2], exchanged_bytes_per_s=2e9)
    assert odd(judged(reports)) == [("exchange with the best partner node", "node1 name", Verdict.FAILED)]


def test_bandwidth_far_below_the_plan_fails() -> None:
    reports = [replace(report, between={"all-reduce": 1e9, "all-gather": 1e9}) for report in ranks()]
    assert {name for name, _, verdict in odd(judged(reports)) if verdict is Verdict.FAILED} == {
        "all-reduce between nodes, a node",
        "all-gather between nodes, a node",
    }


def test_efa_that_is_there_and_not_used_fails() -> None:
    reports = ranks()
    reports[2] = replace(reports[2], network=Network("Socket"))
    (found,) = [finding for finding in judged(reports) if finding.verdict]
    assert found.node == "node1 name" and "EFA, on rdmap16s27" in found.expected and "NCCL_NET" in found.remedy


def test_tcp_between_nodes_without_efa_is_a_warning_and_inside_one_node_nothing() -> None:
    reports = [replace(report, network=Network("Socket"), efa=()) for report in ranks()]
    assert [verdict for *_, verdict in odd(judged(reports))] == [Verdict.WARNING] * 3
    assert odd(judged(reports[:2])) == []


def test_other_fast_networks_are_accepted() -> None:
    reports = [replace(report, network=Network("IB"), efa=()) for report in ranks()]
    assert odd(judged(reports)) == []


def test_where_nccls_log_says_nothing_the_check_is_not_passed() -> None:
    reports = [replace(report, network=Network(), efa=()) for report in ranks()]
    assert [verdict for *_, verdict in odd(judged(reports))] == [Verdict.FAILED] * 3


def test_every_node_meets_every_other_one() -> None:
    for count in range(2, 9):
        rounds = [pairs_of_round(count, number) for number in range(count - 1 + count % 2)]
        met = [pair for pairs in rounds for pair in pairs]
        assert sorted(met) == [(one, other) for one in range(count) for other in range(one + 1, count)]
        assert all(len({player for pair in pairs for player in pair}) == 2 * len(pairs) for pairs in rounds)


def test_one_rank_of_each_node_measures_between_nodes_also_where_nodes_are_unlike() -> None:
    assert across([[0, 1, 2], [3, 4]]) == [[0, 3], [1, 4], [2]]


def test_a_bandwidth_just_below_what_the_plan_assumes_is_a_warning() -> None:
    reports = [replace(report, inside={"all-reduce": 150e9, "all-gather": 200e9}) for report in ranks()]
    assert odd(judged(reports)) == [("all-reduce inside a node, a rank", "node0 name", Verdict.WARNING)]


def test_what_is_assumed_is_what_the_dry_run_predicts_with() -> None:
    recipe = load_recipe("mars_7b")
    assumed = assumed_of(recipe, [1], PreflightSettings(cluster="aws_a100"))
    assert assumed.machine == "p4de.24xlarge" and assumed.between_bytes_per_s == Range(25e9, 35e9, 42.5e9)
    assert assumed.step_s[1].low > assumed.step_s[1].mid > assumed.step_s[1].high > 0
    slower = assumed_of(recipe, [1], PreflightSettings(network_gbit_per_s=100.0))
    assert slower.between_bytes_per_s == Range(6.25e9, 8.75e9, 10.625e9)
    assert slower.step_s[1].low > assumed.step_s[1].low
    assert assumed_of(load_recipe("demo"), [1], PreflightSettings()) == Assumed(), "nothing is assumed of CPUs"
