"""The demo's parts, one after the other."""

from pathlib import Path
from typing import Any

import pytest

import jobs.demo as demo

EVERY_PART = ["tokens", "language expert", "stages", "generate", "evaluate", "report"]


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that have run; each only leaves its name here, and the evaluation its file."""
    parts: list[str] = []

    def leaving(name: str) -> Any:
        return lambda *_: parts.append(name)

    def apart(job: str, options: demo.Options) -> None:
        parts.append(job)
        (options.resolve()[1].run / "metrics.json").write_text("{}")

    for name, place in (
        ("tokens", "pipeline.launch.tokenization.tokenize_corpora"),
        ("language expert", "pipeline.launch.language_expert.make_language_expert"),
        ("stages", "pipeline.launch.curriculum.train_stages"),
        ("report", "pipeline.reports.run_report.write_report"),
    ):
        monkeypatch.setattr(place, leaving(name))
    monkeypatch.setattr("pipeline.launch.tokenization.check_shards", lambda books: None)
    monkeypatch.setattr("pipeline.runtime.ray_connection.connect_to_ray", lambda: None)
    monkeypatch.setattr(demo, "run_apart", apart)
    (tmp_path / "demo").mkdir()
    return parts


def test_a_language_expert_at_hand_is_taken_instead_of_trained(done: list[str], tmp_path: Path) -> None:
    demo.main(demo.Options(root=str(tmp_path), set=("language_expert_folder=models/Qwen2.5-0.5B",)))
    assert done == [part for part in EVERY_PART if part != "language expert"]
    done.clear()
    demo.main(demo.Options(root=str(tmp_path)))
    assert done == EVERY_PART
