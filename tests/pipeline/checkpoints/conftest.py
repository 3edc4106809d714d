"""The folders in which the tests of checkpoints keep them."""

from pathlib import Path

import pytest

from tests.support.s3 import BUCKET


@pytest.fixture(params=["disk", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "checkpoints")
    request.getfixturevalue("s3").fault_every = 7
    return f"s3://{BUCKET}/run/checkpoints"
