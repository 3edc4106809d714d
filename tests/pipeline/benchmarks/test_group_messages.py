"""The benchmark of a group's messages finds all processes, and its stand-ins send what workers send."""

import pytest

from pipeline.benchmarks import group_messages
from pipeline.benchmarks.group_messages import benchmark_messages
from pipeline.config.benchmarks import MessageSettings


@pytest.mark.long
def test_a_small_group_is_measured_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_messages, "SETTLE_S", 2.0)
    figures = benchmark_messages(MessageSettings(ranks=32, step_s=0.05, seconds=4.0))
    assert figures["looks"] >= 4, "the workers were looked at twice a second"
    assert all(0 < share < 0.5 for share in figures["cores"].values()), figures["cores"]
    assert figures["cores"]["monitor"] > figures["idle_cores"]["monitor"] == 0
