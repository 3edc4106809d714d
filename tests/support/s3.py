"""An S3 server (moto's) over HTTP on this machine that fails on demand."""

from typing import Any
from urllib.request import Request, urlopen

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from tests.support.faulty_server import FaultyServer

BUCKET = "corpus"
SECRET = "NeverWriteThisAnywhere"


class FaultyS3(FaultyServer):
    """See `FaultyServer`."""

    def __init__(self) -> None:
        super().__init__(DomainDispatcherApplication(create_backend_app))
        urlopen(Request(f"{self.url}/moto-api/reset", method="POST")).close()  # remove the state of an earlier server

    def environment(self) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
        return keys | {"AWS_ENDPOINT_URL": self.url}

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key=SECRET,
        )
