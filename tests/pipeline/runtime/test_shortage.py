"""A job that waits says for what; what the cluster can never give is refused before anything waits."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from pipeline.errors import UsageError
from pipeline.runtime import placement, ray_connection, shortage
from pipeline.runtime.placement import removing_what_a_failure_leaves, reserved
from pipeline.runtime.ray_autoscaler_private import autoscaler_may_add_nodes
from pipeline.runtime.ray_start_private import without_dashboard_and_log_monitor
from pipeline.runtime.shortage import check_obtainable, saying_what_is_awaited
from tokenization import waiting
from tokenization.config.node_labels import NodeNeeds

pytestmark = pytest.mark.slow
MARKET = "ray.io/market-type"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A Ray with two CPUs, one X and a label."""
    with without_dashboard_and_log_monitor(shows_output=False):
        ray.init("local", num_cpus=2, resources={"X": 1}, labels={MARKET: "on-demand"}, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_S", 0.3)
    monkeypatch.setattr(waiting, "EVERY_S", 0.7)
    monkeypatch.setattr(shortage, "LOOK_S", 0.1)
    monkeypatch.setattr(shortage, "autoscaler_may_add_nodes", lambda: False)


class Sleeper:
    """An actor."""


def lines(capsys: pytest.CaptureFixture[str], enough: Callable[[list[str]], bool]) -> list[str]:
    """The lines about waits, once they are enough."""
    found: list[str] = []
    deadline = time.monotonic() + 30
    while not enough(found):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
        found += [line for line in capsys.readouterr().err.splitlines() if "waiting for" in line]
    return found


def test_a_failure_leaves_no_cpu_taken_that_the_next_attempt_would_wait_for() -> None:
    with reserved(1, together=True):
        with pytest.raises(ZeroDivisionError), removing_what_a_failure_leaves():
            ray.get(placement_group([{"CPU": 1.0}]).ready())
            raise ZeroDivisionError
        deadline = time.monotonic() + 10
        while not (free := ray.available_resources().get("CPU", 0.0)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert free == 1, "what was reserved before stays so"


def test_a_failure_is_not_hidden_by_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: Iterator[dict[str, Any]] = iter([{}])  # the second question fails
    monkeypatch.setattr(placement, "placement_group_table", lambda: next(tables))
    with pytest.raises(ZeroDivisionError), removing_what_a_failure_leaves():
        raise ZeroDivisionError


def test_what_workers_and_actors_wait_for_is_said_again_and_again(capsys: pytest.CaptureFixture[str]) -> None:
    with reserved(1, together=True), saying_what_is_awaited("train_stage"):
        group = placement_group([{"CPU": 1.0}] * 2)
        (first, second, *_) = lines(capsys, lambda found: len(found) > 1)
        assert "train_stage: waiting for 2 x (1 CPU) for workers: 1 of 2 CPU are free" in first, first
        assert "min so far" in second
        remove_placement_group(group)
        actors: list[Any] = [ray.remote(num_cpus=0, resources={"X": 1})(Sleeper).remote() for _ in range(2)]
        ray.wait([actor.__ray_ready__.remote() for actor in actors], num_returns=1)
        quiet_since = time.monotonic()
        deadline = quiet_since + 30
        while time.monotonic() < quiet_since + 1.5:  # one runs, so the pool grows and nobody waits
            assert time.monotonic() < deadline, "it is still said"
            time.sleep(0.1)
            if "waiting" in capsys.readouterr().err:
                quiet_since = time.monotonic()
        for actor in actors:
            ray.kill(actor)
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        other: Any = ray.remote(num_cpus=2)(Sleeper).options(name="other", label_selector=here).remote()
        (line, *_) = lines(capsys, bool)
        assert "waiting for 2 CPU for Sleeper: 1 of 2 CPU are free" in line
        ray.kill(other)
        never = placement_group([{"CPU": 1.0, "GPU": 1.0}])
        (line, *_) = lines(capsys, lambda found: any("GPU" in each for each in found))[-1:]
        assert "0 of 0 GPU are free; no node has that now" in line
        remove_placement_group(never)
        never = placement_group([{"CPU": 1.0}], bundle_label_selector=[{MARKET: "spot"}])
        (line, *_) = lines(capsys, lambda found: any("spot" in each for each in found))[-1:]
        assert f"waiting for 1 CPU on a node with {MARKET}=spot for workers: 0 of 0 CPU are free; no node has" in line
        remove_placement_group(never)
        unlike: Any = ray.remote(num_cpus=0, label_selector={MARKET: "!on-demand"})(Sleeper).remote()
        (line, *_) = lines(capsys, lambda found: any("Sleeper" in each for each in found))[-1:]
        assert f"a process on a node with {MARKET}=!on-demand for Sleeper; no node has that now" in line
        ray.kill(unlike)


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (NodeNeeds({"CPU": 1.0, "GPU": 1.0}), "can hold 1 CPU, 1 GPU: the most on one node are 2 CPU, 0 GPU"),
        (NodeNeeds({"CPU": 3.0}), "can hold 3 CPU: the most on one node are 2 CPU"),
        (
            NodeNeeds({"rack": 1.0}),
            "can hold 1 rack: the most on one node are 0 rack, and no autoscaler adds others",
        ),
        (
            NodeNeeds({"CPU": 1.0}, {MARKET: "spot", "rack": "a"}),
            f"has rack=a, {MARKET}=spot: none has the label rack, {MARKET} is on-demand, and no autoscaler adds others",
        ),
        (NodeNeeds({"CPU": 3.0}, {MARKET: "!spot"}), f"can hold 3 CPU on a node with {MARKET}=!spot: the most"),
    ],
)
def test_what_no_node_has_is_refused(needs: NodeNeeds, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_obtainable([NodeNeeds({"CPU": 1.0}, {MARKET: "in(on-demand,spot)"}), needs], "ask for less")
    assert said in str(refused.value)


def test_what_nodes_may_still_bring_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    check_obtainable([NodeNeeds({"CPU": 1.0})] * 5, "a node that joins by hand may bring more of what there is")
    monkeypatch.setattr(shortage, "autoscaler_may_add_nodes", lambda: True)
    check_obtainable([NodeNeeds({"GPU": 8.0})], "an autoscaler may start it")
    monkeypatch.setattr(shortage, "autoscaler_may_add_nodes", lambda: False)
    monkeypatch.setattr(shortage, "_nodes", lambda: [({"memory": 1.0}, {})])
    check_obtainable([NodeNeeds({"GPU": 8.0})], "the head alone is up")


def test_a_ray_of_the_jobs_own_never_gets_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_connection._Own, "cluster", True)
    check_obtainable([NodeNeeds({"CPU": 1.0})] * 2, "")
    with pytest.raises(UsageError, match="3 CPU are asked for, more than the 2, which Ray was started with"):
        check_obtainable([NodeNeeds({"CPU": 1.0})] * 3, "")


def test_ray_says_by_itself_that_it_has_no_autoscaler() -> None:
    deadline = time.monotonic() + 60
    while autoscaler_may_add_nodes():  # its first report takes some seconds
        assert time.monotonic() < deadline
        time.sleep(0.2)
