"""What a round of the soak ended with."""

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.step_figures import read_validations
from tests.support.s3 import BUCKET, FaultyS3


def tokens_of(s3: FaultyS3, name: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of each shard that a round wrote."""
    client, prefix, found = s3.client(), f"{name}/tokens/", {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
        for item in page.get("Contents", ()):
            if item["Key"].endswith(".parquet"):
                content = client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
                found[item["Key"].removeprefix(prefix)] = pq.read_table(io.BytesIO(content)).to_pylist()
    assert found, f"{name} has no tokens"
    return found


def check_validations(stage: Path, calm: Path, last_step: int) -> None:
    """Checks that a stage was validated with the figures of an undisturbed one, up to its last step.

    Checkpoints that the training outran are missing in either.
    """
    own, undisturbed = ({each.step: each.figures for each in read_validations(one)} for one in (stage, calm))
    assert last_step in own, f"{stage} did not validate its last step"
    assert all(undisturbed.get(step, figures) == figures for step, figures in own.items()), f"{stage}: other figures"
