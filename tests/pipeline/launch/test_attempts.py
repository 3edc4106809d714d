"""A stage is retried, given up, and resumed with fewer workers as its settings say."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.scaling import ScalingConfig
from pipeline.errors import InputError, NodeLostError, PreemptedError, ResizeError, WorkersLostError
from pipeline.launch import attempts
from pipeline.launch.attempts import check_workers, room_to_grow, run_attempts
from pipeline.runtime.termination import Termination, recording_signals
from tokenization.config.node_labels import NodeNeeds

FIXED = ScalingConfig(num_workers=4, max_retries=2)
ELASTIC = replace(FIXED, min_workers=2, wait_for_all_s=0.0)


class Cluster:
    """Attempts that end as they are told to, and a cluster with room for so many workers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ends: list, room: Sequence[int] = (4,)) -> None:
        self.ends, self.room, self.saved = list(ends), list(room), 0
        self.workers: list[int] = []
        self.told: list[str] = []
        monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.0)
        monkeypatch.setattr(attempts, "POLL_S", 0.01)
        monkeypatch.setattr(attempts, "workers_that_fit", lambda _, most: min(most, self.now()))
        monkeypatch.setattr(attempts, "request_nodes", lambda needs, count: None)

    def now(self) -> int:
        return self.room.pop(0) if len(self.room) > 1 else self.room[0]

    def attempt(self, scaling: ScalingConfig) -> None:
        self.workers.append(scaling.num_workers)
        steps, end = self.ends.pop(0)
        self.saved += steps
        if end:
            raise end

    def saved_step(self) -> int:
        return self.saved

    def log(self, line: str) -> None:
        self.told.append(line)

    def run(self, scaling: ScalingConfig, termination: Termination | None = None) -> None:
        self.scaling, self.termination = scaling, termination or Termination()
        run_attempts(self)


LOST = WorkersLostError("rank 1: died")


def test_a_stage_goes_on_as_long_as_it_saves_something_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [(0, LOST), (0, LOST), (5, LOST), (0, LOST), (0, LOST), (5, None)])
    cluster.run(FIXED)
    assert cluster.workers == [4] * 6
    assert "(2 in a row saved nothing; at most 2 may): rank 1: died" in cluster.told[1]
    assert "in a row" not in cluster.told[2]


def test_a_stage_that_dies_again_and_again_without_progress_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [(5, LOST), (0, LOST), (0, LOST), (0, LOST), (5, None)])
    with pytest.raises(WorkersLostError, match="rank 1: died"):
        cluster.run(FIXED)
    assert len(cluster.workers) == 4


def test_what_was_wrong_with_the_input_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [(5, InputError("a shard is damaged")), (5, None)])
    with pytest.raises(InputError, match="a shard is damaged"):
        cluster.run(FIXED)


def test_with_a_range_it_goes_on_with_the_nodes_that_stay_and_grows_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [(1, NodeLostError("a node goes")), (1, LOST), (1, ResizeError("there is room for 4")), (1, None)]
    cluster = Cluster(monkeypatch, ends, room=[4, 3, 1, 1, 2, 4])
    cluster.run(ELASTIC)
    assert cluster.workers == [4, 3, 2, 4], "room for one is less than the range allows"
    assert "3 of 4 workers begin" in "\n".join(cluster.told)


def test_a_validation_beside_the_workers_gets_one_of_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [(1, None)], room=[4])
    cluster.run(replace(ELASTIC, use_gpu=True, async_validation=True))
    assert cluster.workers == [3], "with four workers it would wait until the stage is over"


def test_no_room_at_all_is_room_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [(1, None)], room=[0, 5])
    monkeypatch.setattr("tokenization.waiting.FIRST_S", 0.0)
    cluster.run(replace(ELASTIC, use_gpu=True, async_validation=True))
    assert cluster.told == ["waiting for 4 workers, there is room for 0; `ray status` shows the cluster"]


@pytest.mark.parametrize(("use_gpu", "validates", "asked"), [(True, True, 5), (True, False, 4), (False, True, 5)])
def test_a_cluster_must_have_a_gpu_for_the_validation_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, use_gpu: bool, validates: bool, asked: int
) -> None:
    """Training a VQ-GAN and verifying a step take the recipe's workers alone."""
    seen: list[Any] = []
    monkeypatch.setattr(attempts, "check_obtainable", lambda requests, remedy: seen.append((len(requests), remedy)))
    check_workers(replace(FIXED, use_gpu=use_gpu, async_validation=True), validates)
    ((count, remedy),) = seen
    assert count == asked and ("async_validation=False" in remedy) == (use_gpu and validates)


def test_workers_that_are_still_starting_are_not_stopped_to_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an attempt that takes longer than `grow_after_s` until it trains would be stopped after one step."""
    trained, stopped, asked = threading.Event(), threading.Event(), threading.Event()

    def has_trained() -> bool:
        asked.set()
        return trained.is_set()

    monitor: Any = SimpleNamespace(
        has_trained=SimpleNamespace(remote=has_trained),
        request_stop=SimpleNamespace(remote=lambda request: stopped.set()),
    )
    monkeypatch.setattr(attempts, "POLL_S", 0.01)
    monkeypatch.setattr(attempts, "room_to_grow", lambda *_: 1)
    monkeypatch.setattr("ray.get", lambda value: value)
    fewer = replace(ELASTIC, num_workers=2, grow_after_s=0.0)
    with attempts.watching_attempt(monitor, Termination(), fewer, ELASTIC.num_workers):
        assert asked.wait(5) and not stopped.wait(0.2)
        trained.set()
        assert stopped.wait(5)


def test_the_gpu_of_a_validation_that_died_is_no_room_to_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt would end for it every time, since the next one's validation takes it."""
    free = 1
    monkeypatch.setattr(attempts, "workers_that_fit", lambda _, most: min(most, free))
    beside = replace(ELASTIC, use_gpu=True, async_validation=True)
    assert room_to_grow(beside, 2, validates=False) == 0
    assert room_to_grow(beside, 2, validates=True) == room_to_grow(ELASTIC, 2, validates=True) == 1
    free = 3
    assert room_to_grow(beside, 2, validates=False) == room_to_grow(beside, 2, validates=True) == 2


def test_with_a_fixed_number_a_node_that_goes_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [(1, NodeLostError("a node goes")), (1, None)])
    with pytest.raises(PreemptedError, match="a node goes"):
        cluster.run(FIXED)


def test_a_job_that_is_asked_to_end_while_it_waits_for_workers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    termination = Termination()
    termination.requested.set()
    with pytest.raises(PreemptedError, match="while no worker trained"):
        Cluster(monkeypatch, [], room=[1]).run(ELASTIC, termination)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"min_workers": 5}, "min_workers is 5, but must be at most num_workers, 4"),
        ({"num_workers": 0}, "num_workers is 0, but must be at least 1"),
        ({"grow_after_s": -1.0}, "grow_after_s is -1.0, but must be at least 0"),
    ],
)
def test_a_range_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    assert said in replace(FIXED, **change).problems()


@pytest.mark.parametrize(
    ("scaling", "nodes"), [(ELASTIC, 4), (replace(ELASTIC, use_gpu=True, async_validation=True), 5)]
)
def test_nodes_are_asked_for_again_after_others_have_asked_for_nothing(
    monkeypatch: pytest.MonkeyPatch, scaling: ScalingConfig, nodes: int
) -> None:
    """Ray Train does so when an attempt ends: the autoscaler would take the nodes that are left."""
    cluster = Cluster(monkeypatch, [(5, None)])
    asked: list[int] = []
    often = threading.Event()

    def request_nodes(needs: NodeNeeds, count: int) -> None:
        asked.append(count)
        if len(asked) == 3:
            often.set()

    monkeypatch.setattr(attempts, "request_nodes", request_nodes)
    monkeypatch.setattr(attempts, "ASK_AGAIN_S", 0.01)
    monkeypatch.setattr(cluster, "attempt", lambda scaling: assert_set(often))
    cluster.run(scaling)
    assert set(asked) == {nodes}, "Ray was not up: nothing is taken back"


def assert_set(event: threading.Event) -> None:
    assert event.wait(10), "asked for once only"


def test_the_first_sigterm_waits_for_a_checkpoint_only_if_somebody_trains() -> None:
    """While the job waits for nodes, no worker could receive the request, so the job ends at once."""
    with recording_signals() as known:
        os.kill(os.getpid(), signal.SIGTERM)
        assert known.requested.wait(5)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
    with recording_signals() as known:
        known.nobody_trains.set()
        with pytest.raises(PreemptedError, match="while no worker trained"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
