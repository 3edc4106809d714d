"""Names of Ray that are not public, each with what it is used for."""

from typing import Any

import ray
import ray.train
import ray.train.torch
from ray._private.state import state


def draining_nodes() -> set[str]:
    """Ids of the nodes that are about to be taken away."""
    return set(ray._private.state.state.get_draining_nodes() or {})


def _accessor() -> Any:
    return state._connect_and_get_accessor()
