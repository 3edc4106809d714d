"""A server on this machine that speaks the part of Google Cloud Storage's JSON interface which the project uses.

Written from the interface's public reference: objects with generations, preconditions by generation, listings by prefix
and start offset in pages, ranges, uploads in one request and in parts. Google's own test server answers the same tests
alike: set `GCS_TEST_SERVER` to its address to run them there.
"""

import json
import os
from base64 import b64encode
from dataclasses import dataclass
from email import message_from_bytes
from itertools import count
from threading import Lock
from typing import Any
from urllib.parse import unquote

import google_crc32c
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from werkzeug.exceptions import HTTPException, NotFound, PreconditionFailed
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from tests.support.faulty_server import FaultyServer
from tests.support.forwarding import Forwarding

TEST_SERVER = "GCS_TEST_SERVER"
PAGE = 1000
UPLOADS = "/upload/storage/v1/b/<bucket>/o"
OBJECTS, OBJECT = "/storage/v1/b/<bucket>/o", "/storage/v1/b/<bucket>/o/<path:name>"


@dataclass(frozen=True)
class _Object:
    content: bytes
    generation: int

    def metadata(self, bucket: str, name: str) -> dict[str, str]:
        checksum = b64encode(google_crc32c.Checksum(self.content).digest()).decode()
        made = {"name": name, "bucket": bucket, "generation": str(self.generation)}
        return made | {"size": str(len(self.content)), "crc32c": checksum}


class GcsApp:
    """The WSGI application. Its buckets are empty at the start, and there are no others."""

    def __init__(self, *buckets: str) -> None:
        self._buckets: dict[str, dict[str, _Object]] = {bucket: {} for bucket in buckets}
        self._uploads: dict[str, tuple[str, str, int | None, bytearray]] = {}
        self._generations, self._lock = count(1), Lock()
        self._routes = Map(
            [
                Rule(UPLOADS, endpoint=self._upload, methods=["POST", "PUT"]),
                Rule(OBJECTS, endpoint=self._list, methods=["GET"]),
                Rule(OBJECT, endpoint=self._delete, methods=["DELETE"]),
                Rule(OBJECT, endpoint=self._metadata, methods=["GET"]),
                Rule(f"/download{OBJECT}", endpoint=self._media, methods=["GET"]),
            ],
            merge_slashes=False,
        )

    def __call__(self, environ: dict, start_response: Any) -> Any:
        request = Request(environ)
        try:
            endpoint, values = self._routes.bind_to_environ(environ).match()
            with self._lock:
                response = endpoint(request, **{key: unquote(value) for key, value in values.items()})
        except HTTPException as error:
            body = {"error": {"code": error.code, "message": error.description}}
            response = Response(json.dumps(body), error.code, content_type="application/json")
        return response(environ, start_response)

    def _objects(self, bucket: str) -> dict[str, _Object]:
        if bucket not in self._buckets:
            raise NotFound("The specified bucket does not exist.")
        return self._buckets[bucket]

    def _object(self, request: Request, bucket: str, name: str) -> _Object:
        found = self._objects(bucket).get(name)
        if found is None:
            raise NotFound(f"No such object: {bucket}/{name}")
        _check(request.args.get("ifGenerationMatch", type=int), found)
        return found

    def _list(self, request: Request, bucket: str) -> Response:
        first = max(request.args.get("startOffset", ""), request.args.get("pageToken", ""))
        prefix, size = request.args.get("prefix", ""), min(PAGE, request.args.get("maxResults", PAGE, type=int))
        objects = self._objects(bucket)
        names = [name for name in sorted(objects) if name.startswith(prefix) and name >= first]
        page: dict[str, Any] = {"items": [objects[name].metadata(bucket, name) for name in names[:size]]}
        return _answer(page | ({"nextPageToken": names[size]} if len(names) > size else {}))

    def _metadata(self, request: Request, bucket: str, name: str) -> Response:
        return _answer(self._object(request, bucket, name).metadata(bucket, name))

    def _media(self, request: Request, bucket: str, name: str) -> Response:
        found = self._object(request, bucket, name)
        checksum = found.metadata(bucket, name)["crc32c"]
        headers = {"X-Goog-Hash": f"crc32c={checksum}", "X-Goog-Generation": str(found.generation)}
        response = Response(found.content, headers=headers, content_type="application/octet-stream")
        return response.make_conditional(request, accept_ranges=True, complete_length=len(found.content))

    def _delete(self, request: Request, bucket: str, name: str) -> Response:
        self._object(request, bucket, name)
        del self._objects(bucket)[name]
        return Response(status=204)

    def _upload(self, request: Request, bucket: str) -> Response:
        if upload := request.args.get("upload_id"):
            return self._part(request, upload)
        wanted = request.args.get("ifGenerationMatch", type=int)
        if request.args["uploadType"] == "multipart":
            head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
            parts: Any = message_from_bytes(head + request.get_data()).get_payload()
            described, content = (part.get_payload(decode=True) for part in parts)
            return self._store(bucket, json.loads(described)["name"], content, wanted)
        self._objects(bucket)
        name = request.args.get("name") or json.loads(request.get_data())["name"]
        self._uploads[str(len(self._uploads))] = bucket, name, wanted, bytearray()
        place = f"{request.base_url}?uploadType=resumable&upload_id={len(self._uploads) - 1}"
        return Response(headers={"Location": place})

    def _part(self, request: Request, upload: str) -> Response:
        bucket, name, wanted, received = self._uploads[upload]
        span, _, total = request.headers["Content-Range"].removeprefix("bytes ").partition("/")
        if span != "*":
            start = int(span.partition("-")[0])
            received[start:] = request.get_data()
        if total != "*" and len(received) == int(total):
            return self._store(bucket, name, bytes(received), wanted)
        headers = {"Range": f"bytes=0-{len(received) - 1}"} if received else {}
        return Response(status=308, headers=headers)

    def _store(self, bucket: str, name: str, content: bytes, wanted: int | None) -> Response:
        objects = self._objects(bucket)
        _check(wanted, objects.get(name))
        objects[name] = _Object(content, next(self._generations))
        return _answer(objects[name].metadata(bucket, name))


def _check(wanted: int | None, found: _Object | None) -> None:
    if wanted is not None and wanted != (found.generation if found else 0):
        raise PreconditionFailed("At least one of the pre-conditions you specified did not hold.")


def _answer(content: dict[str, Any]) -> Response:
    return Response(json.dumps(content), content_type="application/json")


class FaultyGcs(FaultyServer):
    """An empty bucket of `GcsApp`, or of the server at `GCS_TEST_SERVER`; see `FaultyServer`."""

    def __init__(self, bucket: str) -> None:
        other = os.environ.get(TEST_SERVER)
        super().__init__(Forwarding(other) if other else GcsApp(bucket))
        if other:
            client = Client(
                project="test", client_options={"api_endpoint": self.url}, credentials=AnonymousCredentials()
            )
            if (found := client.lookup_bucket(bucket)) is not None:
                found.delete(force=True)
            client.create_bucket(bucket)

    def environment(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": self.url}
