"""The ledger counts what a job holds as soon as Ray has given it."""

import pytest

from pipeline.ledger.devices import HeldDevices
from pipeline.runtime import ray_private
from pipeline.runtime.shares import Share

NODES = {"a": {"CPU": 1.0, "memory": 5e9}, "b": {"CPU": 4.0, "memory": 5e9}}
RUNNING = [Share("b", {"CPU": 1.0})]
GROUPS = [Share("a", {"CPU": 1.0}), Share("b", {"CPU": 2.0})]
"""Node a is full, and on node b one CPU is taken that no table explains."""


def held_with(monkeypatch: pytest.MonkeyPatch, starting: list[dict[str, float]]) -> float:
    """CPUs that a job holds whose actors' processes start, and which has no placement group."""
    monkeypatch.setattr(ray_private, "_taken_on_nodes", lambda: {name: dict(taken) for name, taken in NODES.items()})
    monkeypatch.setattr(ray_private, "_actors", lambda job: (list(RUNNING), starting if job else []))
    monkeypatch.setattr(ray_private, "placement_group_shares", lambda job: [] if job else GROUPS)
    monkeypatch.setattr("pipeline.ledger.devices.placement_group_shares", lambda job: [])
    return HeldDevices("CPU", "01").now().devices


def test_an_actor_counts_while_its_process_starts_and_not_while_it_waits_for_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process of torch takes seconds to start, and Ray's tables name no node for it until then."""
    assert held_with(monkeypatch, []) == 1
    assert held_with(monkeypatch, [{"CPU": 0.75, "memory": 1e9}]) == 1.75
    assert held_with(monkeypatch, [{"CPU": 0.75}, {"CPU": 0.25}]) == 2
    assert held_with(monkeypatch, [{"CPU": 0.75}, {"CPU": 0.75}]) == 1.75, "the second one waits"
    assert held_with(monkeypatch, [{"CPU": 2.0}]) == 1
    assert held_with(monkeypatch, [{"CPU": 0.5, "memory": 9e9}]) == 1
