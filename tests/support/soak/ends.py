"""What a round of the soak ended with."""

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.step_figures import read_validations
from tokenization.files.storage import open_storage


def tokens_of(tokens: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of each shard below a URL."""
    storage, found = open_storage(tokens), {}
    for name, size in storage.sizes().items():
        if name.endswith(".parquet"):
            found[name] = pq.read_table(io.BytesIO(storage.read(name, 0, size))).to_pylist()
    assert found, f"{tokens} has no tokens"
    return found


def check_validations(stage: Path, calm: Path, last_step: int) -> None:
    """Checks that a stage was validated with the figures of an undisturbed one, up to its last step.

    Checkpoints that the training outran are missing in either.
    """
    own, undisturbed = ({each.step: each.figures for each in read_validations(one)} for one in (stage, calm))
    assert last_step in own, f"{stage} did not validate its last step"
    assert all(undisturbed.get(step, figures) == figures for step, figures in own.items()), f"{stage}: other figures"
