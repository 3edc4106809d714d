"""Clocks, memory, shared memory, ops and slow nodes are judged against what a run needs."""

import pytest

from pipeline.preflight.clocks import Offset, judge_offset
from pipeline.preflight.devices import Host, Need, host_here, judge_hosts
from pipeline.preflight.finding import Verdict, with_unit
from pipeline.preflight.ops import Ops, judge_ops
from tests.support.preflight import node, verdicts

FIRST, SECOND = node("first"), node("second")
HOST = Host(8, 2e9, 64_000_000_000, 60_000_000_000, 32_000_000_000, ())
NEED = Need(ranks=2, host_bytes=10_000_000_000)


@pytest.mark.parametrize(
    ("offset", "verdict"),
    [
        (Offset(0.2, 0.01), Verdict.OK),
        (Offset(-5.0, 0.01), Verdict.WARNING),
        (Offset(5.0, 6.0), Verdict.OK),
        (Offset(-900.0, 0.5), Verdict.FAILED),
    ],
)
def test_a_clock_is_judged_by_the_part_of_its_offset_that_is_certain(offset: Offset, verdict: Verdict) -> None:
    found = judge_offset(FIRST, offset)
    assert found.verdict is verdict and bool(found.remedy) == (verdict is not Verdict.OK)


@pytest.mark.slow
def test_this_machine_is_described() -> None:
    host = host_here()
    assert host.cpus >= 1 and host.hashed_bytes_per_s > 1e6
    assert 0 < host.available_bytes <= host.total_bytes and host.shared_free_bytes > 0


def test_a_node_that_is_slower_than_the_others_is_named() -> None:
    slow = Host(8, 0.5e9, HOST.total_bytes, HOST.available_bytes, HOST.shared_free_bytes, ())
    found = judge_hosts({FIRST: HOST, SECOND: slow}, {FIRST: NEED, SECOND: NEED})
    assert [key for key, verdict in verdicts(found).items() if verdict] == [("speed of a processor, sha256", "second")]


def test_too_little_memory_for_a_nodes_ranks_fails() -> None:
    found = judge_hosts({FIRST: HOST}, {FIRST: Need(ranks=7, host_bytes=10_000_000_000)})
    assert verdicts(found)["host memory", "first"] is Verdict.FAILED


def test_a_container_with_dockers_64_mb_of_shared_memory_fails_on_cpus() -> None:
    small = Host(8, 2e9, HOST.total_bytes, HOST.available_bytes, 64_000_000, ())
    found = judge_hosts({FIRST: small}, {FIRST: NEED})
    assert verdicts(found)["/dev/shm", "first"] is Verdict.FAILED


def test_more_cpus_in_ray_than_in_the_machine_are_a_warning() -> None:
    many = node("first", CPU=64.0)
    assert verdicts(judge_hosts({many: HOST}, {many: NEED}))["CPUs", "first"] is Verdict.WARNING


def test_a_driver_that_does_not_answer_fails_the_node() -> None:
    broken = Host(8, 2e9, 64_000_000_000, 60_000_000_000, 0, (), "RuntimeError: nvidia-smi fails")
    need = Need(8, 1, gpu_bytes=1, gpu_type="A100-80GB")
    found = judge_hosts({FIRST: broken}, {FIRST: need})
    assert verdicts(found)[("GPUs", "first")] is Verdict.FAILED


def test_an_op_that_cannot_be_built_and_a_missing_compiler_fail() -> None:
    ops = {FIRST: Ops(True, 0.0, "/usr/bin/cc"), SECOND: Ops(False, 3.0, "", "RuntimeError: no g++\nhere")}
    good, bad = judge_ops(ops)
    assert good.verdict is Verdict.OK and bad.verdict is Verdict.FAILED and "\n" not in bad.measured
    with_compiler, without = judge_ops({FIRST: Ops(None, 0.0, "/usr/bin/cc"), SECOND: Ops(None, 0.0, "")})
    assert with_compiler.verdict is Verdict.OK and without.verdict is Verdict.FAILED


@pytest.mark.parametrize(("value", "said"), [(627e6, "627 MB/s"), (0.5, "0.5 B/s"), (31.2e12, "31.2 TB/s")])
def test_values_are_told_with_three_digits_and_a_prefix(value: float, said: str) -> None:
    assert with_unit(value, "B/s") == said
