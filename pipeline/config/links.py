"""Speeds of the links inside a node and between nodes, as their makers state them."""

from dataclasses import dataclass

from pipeline.config.gpus import gpu_type_of

INSIDE_GB_PER_S = {
    "A100": 300.0,
    "H100": 450.0,
    "H200": 450.0,
    "B200": 900.0,
    "V100": 150.0,
    "H100 NVL": 300.0,
    "H200 NVL": 450.0,
    "H100 PCIe": 64.0,
    "L40S": 32.0,
    "L4": 32.0,
    "A10G": 32.0,
    "A10": 32.0,
}
"""GB/s that one GPU sends to the others of its node: half of NVLink's figure in NVIDIA's data sheets, which counts both
directions (A100: of the SXM form), and for cards without NVLink half of PCIe's."""
BETWEEN_GB_PER_S = {
    "p4d.24xlarge": 50.0,
    "p4de.24xlarge": 50.0,
    "a2-highgpu-8g": 12.5,
    "a2-ultragpu-8g": 12.5,
}
"""GB/s that a node sends to the others, by machine type, as AWS and Google Cloud state them (400 and 100 Gbit/s)."""


@dataclass(frozen=True)
class Links:
    """Bytes a second and direction that a GPU sends inside its node, and a node to others; None where it is unknown."""

    inside_bytes_per_s: float | None = None
    between_bytes_per_s: float | None = None


def stated_links(gpu: str, machine_type: str) -> Links:
    """Returns the stated speeds of a GPU type (as in `A100-80GB`) and of a machine type (as in `p4de.24xlarge`). Either
    may be empty."""
    kind = gpu_type_of(gpu) if gpu else None
    inside, between = INSIDE_GB_PER_S.get(kind.name) if kind else None, BETWEEN_GB_PER_S.get(machine_type)
    return Links(inside * 1e9 if inside else None, between * 1e9 if between else None)
