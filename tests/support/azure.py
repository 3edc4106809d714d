"""Azure's own test server, Azurite, on this machine, behind one that fails on demand."""

import subprocess
import time
import urllib.request
from urllib.error import HTTPError, URLError

from azure.storage.blob import ContainerClient

from tests.support.faulty_server import FaultyServer
from tests.support.forwarding import Forwarding
from tests.support.ports import free_port

ACCOUNT = "devstoreaccount1"
PUBLIC_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key that Azurite's documentation gives its account."""
STARTED_S = 30.0


class Azurite:
    """The server, until `stop`. It keeps objects in memory.

    Raises:
        TimeoutError: it did not start.
    """

    def __init__(self, program: str) -> None:
        port = free_port()
        words = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
        flags = ["--silent", "--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry"]
        self._process = subprocess.Popen([program, *words, *flags], stdout=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{port}"
        self._wait()

    def _wait(self) -> None:
        began = time.monotonic()
        while time.monotonic() - began < STARTED_S:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
            except HTTPError:
                return  # it answers that the request was wrong
            except URLError:
                time.sleep(0.1)
        raise TimeoutError(f"Azurite did not answer within {STARTED_S:.0f} s")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class FaultyAzure(FaultyServer):
    """An empty container of an `Azurite`; see `FaultyServer`."""

    def __init__(self, azurite: Azurite, container: str) -> None:
        super().__init__(Forwarding(azurite.url))
        client = ContainerClient.from_connection_string(
            self.environment()["AZURE_STORAGE_CONNECTION_STRING"], container
        )
        if client.exists():
            client.delete_container()
        client.create_container()

    def environment(self) -> dict[str, str]:
        parts = {"DefaultEndpointsProtocol": "http", "AccountName": ACCOUNT, "AccountKey": PUBLIC_KEY}
        parts |= {"BlobEndpoint": f"{self.url}/{ACCOUNT}"}
        return {"AZURE_STORAGE_CONNECTION_STRING": ";".join(f"{key}={value}" for key, value in parts.items())}
