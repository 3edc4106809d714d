"""How a worker group's failures reach the loop of attempts."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train.torch
from ray.exceptions import ActorDiedError
from ray.train.backend import Backend, BackendConfig
from ray.train.torch import TorchConfig

from pipeline.config.scaling import ScalingConfig
from pipeline.errors import WorkersLostError
from pipeline.launch.ray_train import health_check_s, raising_errors_of_workers, run_worker_group, worker_group
from pipeline.runtime.ray_start_private import without_dashboard_and_log_monitor
from tests.support.forked_workers import forked_workers


def test_a_lost_controller_of_ray_train_leads_to_another_attempt() -> None:
    with pytest.raises(WorkersLostError, match="controller was lost"), raising_errors_of_workers():
        raise ActorDiedError


def test_an_error_of_our_own_passes_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), raising_errors_of_workers():
        raise ZeroDivisionError


def test_the_controller_of_a_large_group_is_not_kept_busy_by_looking_at_its_workers() -> None:
    assert health_check_s(2) == health_check_s(64) == 0.5
    assert health_check_s(1024) == 8.0


def test_ray_train_places_workers_by_the_recipes_label_selector(tmp_path: Path) -> None:
    """`tests/end_to_end/test_node_labels.py` sees where they run."""
    selector = {"ray.io/market-type": "spot"}
    group = worker_group(lambda: None, ScalingConfig(label_selector=selector), "labelled", tmp_path)
    assert group.scaling_config.label_selector == selector  # type: ignore[attr-defined]


class DyingBackend(Backend):
    """Kills a worker after the workers' start and before their loop's."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        worker_group.execute_single(0, os._exit, 1)


class DyingConfig(TorchConfig):
    """Settings of `DyingBackend`."""

    @property
    def backend_cls(self) -> type[Backend]:
        return DyingBackend


@pytest.mark.long
def test_a_worker_that_dies_before_its_loop_begins_leaves_no_cpu_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt would wait for them forever."""
    monkeypatch.setattr(ray.train.torch, "TorchConfig", lambda **_: DyingConfig())
    monkeypatch.setattr(sys, "executable", forked_workers().python)
    with without_dashboard_and_log_monitor(shows_output=False):
        ray.init("local", num_cpus=2, log_to_driver=False)
    try:
        group = worker_group(lambda: None, ScalingConfig(num_workers=2, cpus_per_worker=1), "dying", tmp_path)
        with pytest.raises(WorkersLostError, match="failed to initialize"):
            run_worker_group(group)
        deadline = time.monotonic() + 10
        while ray.available_resources().get("CPU", 0) < 2:
            assert time.monotonic() < deadline, "its CPUs are still taken"
            time.sleep(0.1)
    finally:
        ray.shutdown()
