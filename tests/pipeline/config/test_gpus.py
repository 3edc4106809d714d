"""A plan on a GPU uses the figures of its data sheet, or is refused because they are unknown."""

import pytest

from cluster.cluster_file import NodeType
from cluster.nodes import _may_have
from pipeline.config import gpus
from pipeline.config.gpus import GPU_TYPES, GpuType, memory_bytes, peak_flop_per_s


@pytest.mark.parametrize(
    ("name", "peak_tflop_per_s", "memory_gb"),
    [
        ("NVIDIA A100-SXM4-80GB", 312, 80),
        ("A100-40GB", 312, 40),
        ("A100", 312, None),
        ("NVIDIA H100 80GB HBM3", 989.5, 80),
        ("NVIDIA H100 PCIe", 756.5, 80),
        ("NVIDIA H100 NVL", 835.5, 94),
        ("H100-96GB", 989.5, None),
        ("NVIDIA H200", 989.5, 141),
        ("H200-NVL", 835.5, 141),
        ("NVIDIA B200", 2250, 180),
        ("NVIDIA L40S", 362, 48),
        ("NVIDIA L4", 121, 24),
        ("NVIDIA A10G", 70, 24),
        ("NVIDIA A10", 125, 24),
        ("Tesla V100-SXM2-32GB", None, 32),
        ("Some card", None, None),
    ],
)
def test_a_devices_name_gives_the_figures_of_its_type(
    name: str, peak_tflop_per_s: float | None, memory_gb: int | None
) -> None:
    assert peak_flop_per_s(name) == (peak_tflop_per_s and peak_tflop_per_s * 1e12)
    assert memory_bytes(name) == (memory_gb and memory_gb * 10**9)


@pytest.mark.parametrize("name", [name for gpu in GPU_TYPES for name in gpu.full_names])
def test_every_name_that_users_are_told_to_give_has_its_figures_and_is_found_in_cluster_files(name: str) -> None:
    assert memory_bytes(name) and (peak_flop_per_s(name) or "V100" in name)
    labelled = NodeType("gpu", resources={"GPU": 8}, labels={"ray.io/accelerator-type": name.removesuffix("B")})
    for nodes in (labelled, NodeType("gpu", resources={"GPU": 8, name: 8})):
        assert _may_have(nodes, name) and not _may_have(nodes, "another")


def test_a_type_is_added_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "GPU_TYPES", (GpuType("X9", 1000.0, (64,), (4000,), 600), *GPU_TYPES))
    assert peak_flop_per_s("NVIDIA X9") == 1e15 and memory_bytes("X9-64GB") == 64 * 10**9
