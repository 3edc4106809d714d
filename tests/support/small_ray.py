"""A Ray of one node on this machine, whose workers are forked."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from ray.cluster_utils import Cluster

from pipeline.runtime.ray_start_private import without_dashboard_and_log_monitor
from tests.support.forked_workers import forked_workers


@contextmanager
def small_ray(num_cpus: int = 4) -> Iterator[Cluster]:
    """Starts a cluster without a dashboard, whose workers this process forks. Its drivers are other processes: a driver
    keeps the interpreter's lock until a worker has started, so that this process could fork none."""
    with patch.object(sys, "executable", forked_workers().python), without_dashboard_and_log_monitor(False):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": num_cpus})
    try:
        yield cluster
    finally:
        cluster.shutdown()
