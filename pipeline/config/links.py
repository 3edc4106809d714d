"""Speeds of the links inside a node and between nodes, as their makers state them."""

from dataclasses import dataclass

from pipeline.config.gpus import gpu_type_of
from pipeline.config.machine_types import machine_type


@dataclass(frozen=True)
class Links:
    """Bytes a second and direction that a GPU sends inside its node, and a node to others; None where it is unknown."""

    inside_bytes_per_s: float | None = None
    between_bytes_per_s: float | None = None


def stated_links(gpu: str, machine: str) -> Links:
    """Returns the stated speeds of a GPU type (as in `A100-80GB`) and of a machine type (as in `p4de.24xlarge`). Either
    may be empty."""
    kind, node = gpu_type_of(gpu) if gpu else None, machine_type(machine)
    return Links(kind.peer_gb_per_s * 1e9 if kind else None, node.network_bytes_per_s if node else None)
