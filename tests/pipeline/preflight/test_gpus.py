"""GPUs that are damaged, slowed or in use are named.

The tables are made by hand after NVIDIA's documentation of nvidia-smi: there was no GPU to record them on.
"""

from collections.abc import Callable, Sequence

import pytest
import torch

from pipeline.preflight import network
from pipeline.preflight.finding import Verdict
from pipeline.preflight.gpus import Gpu, judge_gpus, read_gpus

STATE = """\
0, GPU-aaaa, NVIDIA A100-SXM4-80GB, 580.95.05, 81920, 560, 31
1, GPU-bbbb, NVIDIA A100-SXM4-80GB, 580.95.05, 81920, 560, 30
"""
TABLES = {
    "memory.total": STATE,
    "clocks_throttle_reasons.active": "GPU-aaaa, 0x0000000000000001\nGPU-bbbb, 0x0000000000000004\n",
    "ecc.errors.uncorrected.volatile.total": "GPU-aaaa, 0\nGPU-bbbb, 0\n",
    "retired_pages.pending": "GPU-aaaa, [N/A]\nGPU-bbbb, [N/A]\n",
    "remapped_rows.pending": "GPU-aaaa, 0, No, No\nGPU-bbbb, 0, No, No\n",
}


def asked(**changed: str) -> Callable[[str, Sequence[str]], list[list[str]]]:
    """nvidia-smi with some of its tables replaced, by the word of their fields before the dot."""

    def ask(flag: str, fields: Sequence[str]) -> list[list[str]]:
        (name,) = [name for name in TABLES if name in fields]
        assert flag == ("--query-remapped-rows" if name.startswith("remapped") else "--query-gpu")
        table = changed.get(name.split(".")[0], TABLES[name])
        return [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]

    return ask


def judged(gpus: Sequence[Gpu], expected: float = 2, planned_bytes: int = 60_000_000_000) -> dict[str, Verdict]:
    """The worst verdict by what was checked."""
    found: dict[str, Verdict] = {}
    for finding in judge_gpus("node", gpus, expected, planned_bytes, "A100-80GB"):
        found[finding.what] = max(found.get(finding.what, Verdict.OK), finding.verdict)
        assert bool(finding.remedy) == (finding.verdict is not Verdict.OK), finding
    return found


def test_healthy_gpus_with_room_are_well() -> None:
    first, second = read_gpus(asked())
    assert (first.index, first.name, first.driver) == (0, "NVIDIA A100-SXM4-80GB", "580.95.05")
    assert first.total_bytes == 81920 * 2**20 and first.temperature_c == 31
    assert not first.slowed_by and not second.slowed_by, "idleness and the power cap are usual"
    assert set(judged([first, second]).values()) == {Verdict.OK}


@pytest.mark.parametrize(
    ("changed", "verdict", "said"),
    [
        ({"ecc": "GPU-aaaa, 0\nGPU-bbbb, 3\n"}, Verdict.FAILED, "3 uncorrected memory errors"),
        ({"remapped_rows": "GPU-aaaa, 0, No, No\nGPU-bbbb, 9, No, Yes\n"}, Verdict.FAILED, "could not be replaced"),
        ({"remapped_rows": "GPU-aaaa, 0, No, No\nGPU-bbbb, 1, Yes, No\n"}, Verdict.WARNING, "at the next reset"),
        ({"retired_pages": "GPU-aaaa, No\nGPU-bbbb, Yes\n"}, Verdict.WARNING, "at the next reset"),
        (
            {"clocks_throttle_reasons": "GPU-aaaa, 0x0000000000000000\nGPU-bbbb, 0x0000000000000048\n"},
            Verdict.WARNING,
            "hardware slowdown, hardware thermal slowdown",
        ),
    ],
)
def test_a_fault_of_one_gpu_is_named(changed: dict[str, str], verdict: Verdict, said: str) -> None:
    gpus = read_gpus(asked(**changed))
    found = [each for each in judge_gpus("node", gpus, 2, 1, "A100-80GB") if each.verdict]
    assert [(each.what, each.verdict) for each in found] == [("health of GPU 1", verdict)]
    assert said in found[0].measured and found[0].remedy


def test_memory_that_somebody_else_uses_and_too_little_memory_are_told_apart() -> None:
    used = STATE.replace("81920, 560, 30", "81920, 4560, 30")
    assert judged(read_gpus(asked(memory=used)))["free memory of GPU 1"] is Verdict.WARNING
    assert judged(read_gpus(asked(memory=used)), planned_bytes=84_000_000_000)["free memory of GPU 1"] is Verdict.FAILED


def test_a_gpu_that_has_gone_is_missed() -> None:
    gpus = read_gpus(asked())[:1]
    assert judged(gpus)["GPUs"] is Verdict.FAILED


def test_another_gpu_type_than_the_plans_is_a_warning() -> None:
    gpus = [Gpu(0, "GPU-c", "NVIDIA A100-SXM4-40GB", "580", 40_000_000_000, 0)]
    assert judged(gpus, 1, 30_000_000_000)["GPU type"] is Verdict.WARNING


def test_a_driver_that_does_not_know_a_field_is_still_asked_for_the_rest() -> None:
    gpus = read_gpus(asked(remapped_rows="", retired_pages=""))
    assert [gpu.remapped_rows for gpu in gpus] == [None, None] and set(judged(gpus).values()) == {Verdict.OK}


def test_a_driver_that_does_not_answer_is_an_error_and_no_healthy_node() -> None:
    with pytest.raises(RuntimeError, match="is the driver loaded"):
        read_gpus(asked(memory="NVIDIA-SMI has failed\n"))


def test_a_rank_whose_driver_does_not_answer_goes_on_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Gpu]:
        raise RuntimeError("nvidia-smi fails")

    monkeypatch.setattr(network, "gpus_here", broken)
    (reason,) = network._slowed_by(torch.device("cuda"))
    assert "nvidia-smi fails" in reason and network._slowed_by(torch.device("cpu")) == ()
