"""A request for generation."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.generation.documents import DocumentLimits
from pipeline.generation.sampling import Sampling
from pipeline.requests.request import (
    GenerationRequest,
    high_resolution,
)
from pipeline.runs.paths import run_paths
from tests.support.requests import fingerprint, high_recipe


@pytest.fixture(scope="module")
def request_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., GenerationRequest]:
    root = tmp_path_factory.mktemp("runs")  # shared: to convert the text vocabulary takes seconds

    def made(task: str, positions: int = 4096, **limits: Any) -> GenerationRequest:
        recipe = high_recipe()
        paths = run_paths(str(root), recipe)
        paths.language_expert.mkdir(parents=True, exist_ok=True)
        (paths.language_expert / "config.json").write_text(
            json.dumps({"model_type": "qwen2", "max_position_embeddings": positions})
        )
        documents = DocumentLimits(64, **{"max_pictures": 2, "max_text_ids": 100} | limits)
        high = high_resolution(recipe, fingerprint()) if task == "picture" else None
        return GenerationRequest(recipe, paths, fingerprint(), task, Sampling(), high, documents)

    return made
