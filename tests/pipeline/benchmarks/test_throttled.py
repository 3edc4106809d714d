"""Predicted steps are compared with measured ones behind throttled links."""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.benchmarks.throttled.nodes import throttled_nodes
from pipeline.benchmarks.throttled.rank import Measured, Probe, Seconds
from pipeline.benchmarks.throttled.run import benchmark_predictions, predict, settings_of
from pipeline.config.benchmarks import PredictSettings
from pipeline.errors import UsageError
from tests.support.forkserver import forkserver

FAST, SLOW = Probe(1e9, 0.0), Probe(1e6, 0.0)


def test_a_slower_network_is_predicted_to_take_longer_and_an_endless_one_takes_the_computation() -> None:
    for setting in settings_of((100.0,)):
        seconds = Seconds(1.0, 2.0, 0.5)
        computed = 3.0 * setting.micro_steps + 0.5
        fast = predict(setting, seconds, Measured(0.0, Probe(1e15, 0.0), Probe(1e15, 0.0), Probe(1e15, 0.0)))
        slow = predict(setting, seconds, Measured(0.0, SLOW, SLOW, FAST))
        assert fast == pytest.approx(computed, rel=1e-3) and slow > 2 * computed, setting.name


def test_with_a_copy_of_the_weights_in_each_node_the_network_carries_less() -> None:
    *_, whole, copied = settings_of((100.0,))
    measured = Measured(0.0, SLOW, SLOW, FAST)
    without = predict(replace(whole, micro_steps=copied.micro_steps), Seconds(0.1, 0.2, 0.0), measured)
    assert predict(copied, Seconds(0.1, 0.2, 0.0), measured) < 0.8 * without


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("tc"), reason="only root with iproute2 may throttle links")
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_steps_are_predicted_within_15_percent_in_at_least_six_settings() -> None:
    """On a machine that does nothing else. python -m pytest -m long tests/pipeline/benchmarks/test_throttled.py"""
    figures = benchmark_predictions(PredictSettings())
    assert figures["within_15_percent"] >= 6, figures


def test_without_the_tools_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(UsageError, match="ip and tc are missing"):
        benchmark_predictions(PredictSettings())
    monkeypatch.setattr(shutil, "which", lambda tool: f"/sbin/{tool}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="only root"):
        benchmark_predictions(PredictSettings())


def _made(names: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with throttled_nodes(2, 100.0) as found:
        names.with_suffix(".part").write_text("\n".join(found))
        names.with_suffix(".part").rename(names)
        signal.pause()


def _there() -> set[str]:
    """Namespaces and bridges, by name."""
    listed = [["ip", "netns", "list"], ["ip", "-brief", "link", "show", "type", "bridge"]]
    said = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in listed]
    return {line.split()[0] for text in said for line in text.splitlines()}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("tc"), reason="only root with iproute2 may throttle links")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_throttled_nodes_leave_nothing_behind_however_they_end(tmp_path: Path, number: signal.Signals) -> None:
    """What a killed process could not remove, the next one does."""
    names = tmp_path / "names"
    process = forkserver().Process(target=_made, args=(names,))
    process.start()
    while not names.exists():
        assert process.is_alive(), "only SIGTERM, SIGINT or SIGKILL ends it"
        time.sleep(0.02)
    made = set(names.read_text().split())
    assert len(made) == 2 and made < _there()
    assert process.pid
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode
    if number is signal.SIGKILL:
        assert made < _there()
        with throttled_nodes(1, 100.0) as others:
            assert not made & _there() and set(others) < _there()
    assert not any(name.startswith(f"m{process.pid}x") for name in _there())
