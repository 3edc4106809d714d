"""The services that keep buckets, each with a server on this machine that speaks its protocol and fails on demand."""

import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.support.azure import AZURITE, Azurite, FaultyAzure
from tests.support.faulty_server import FaultyServer, ServerOf
from tests.support.gcs import FaultyGcs
from tests.support.s3 import BUCKET, FaultyS3
from tokenization.patience import OUTAGE_VARIABLE


@pytest.fixture(scope="module")
def azurite() -> Iterator[Callable[[], Azurite]]:
    """Starts Azure's test server when it is first needed."""
    started: list[Azurite] = []

    def get() -> Azurite:
        if not shutil.which(AZURITE):
            pytest.skip(f"{AZURITE} is not installed: npm install --global azurite")
        started.extend([] if started else [Azurite()])
        return started[0]

    yield get
    for server in started:
        server.stop()


@pytest.fixture
def server_of(azurite: Callable[[], Azurite], monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerOf]:
    """Starts the server of a scheme, with an empty bucket `BUCKET`. This process's clients find it by themselves."""
    started: list[FaultyServer] = []

    def start(scheme: str) -> FaultyServer:
        server: FaultyS3 | FaultyGcs | FaultyAzure
        if scheme == "s3":
            server = FaultyS3()
            server.client().create_bucket(Bucket=BUCKET)
        else:
            server = FaultyGcs(BUCKET) if scheme == "gs" else FaultyAzure(azurite(), BUCKET)
        started.append(server)
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(OUTAGE_VARIABLE, "30")
        return server

    yield start
    for server in started:
        server.stop()
