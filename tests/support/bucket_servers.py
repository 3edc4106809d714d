"""Servers on this machine that speak the protocols of the services which keep buckets, and fail on demand."""

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.faulty_server import FaultyServer
from tests.support.s3 import BUCKET, FaultyS3

if TYPE_CHECKING:
    from tests.support.azure import Azurite

AZURITE = "azurite-blob"
"""Azure's own test server; `npm install --global azurite` brings it."""


class BucketServers:
    """Starts servers when they are needed, until `stop`. The libraries of a service are imported with its first one."""

    def __init__(self) -> None:
        self._azurite: Azurite | None = None

    def start(self, scheme: str) -> FaultyServer:
        """The server of a scheme of locations, with an empty bucket `BUCKET`. Skips the test if the server is not
        installed."""
        if scheme == "s3":
            server = FaultyS3()
            server.client().create_bucket(Bucket=BUCKET)
            return server
        if scheme == "gs":
            from tests.support.gcs import FaultyGcs

            return FaultyGcs(BUCKET)
        if not shutil.which(AZURITE):
            pytest.skip(f"{AZURITE} is not installed: npm install --global azurite")
        from tests.support.azure import Azurite, FaultyAzure

        self._azurite = self._azurite or Azurite(AZURITE)
        return FaultyAzure(self._azurite, BUCKET)

    def stop(self) -> None:
        if self._azurite:
            self._azurite.stop()
