"""The folders in which the tests of checkpoints keep them."""

from pathlib import Path

import pytest

from tests.support.faulty_server import ServerOf
from tests.support.s3 import BUCKET


@pytest.fixture(params=["disk", "s3", *(pytest.param(scheme, marks=pytest.mark.long) for scheme in ("gs", "az"))])
def url(request: pytest.FixtureRequest, tmp_path: Path, server_of: ServerOf) -> str:
    if request.param == "disk":
        return str(tmp_path / "checkpoints")
    server_of(request.param).fault_every = 7
    return f"{request.param}://{BUCKET}/run/checkpoints"
