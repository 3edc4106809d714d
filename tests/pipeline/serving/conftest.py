"""A served model that the tests share."""

from collections.abc import Iterator

import pytest

from pipeline.serving.served_model import ServedModel
from tests.support.small_server import SmallServer, small_served, small_server


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return small_served(tmp_path_factory.mktemp("served") / "run")


@pytest.fixture(scope="module")
def server(served: ServedModel) -> Iterator[SmallServer]:
    with small_server(served) as running:
        yield running
