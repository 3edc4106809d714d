"""Requests to a head's dashboard use no proxy of the environment; those to an ingress do."""

import json
from typing import Any

import pytest
import ray
import requests

from pipeline.runtime.ray_private import job_client

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("address", "proxy"),
    [("http://127.0.0.1:8265", ""), ("http://head.internal:8265", ""), ("https://ray.example", PROXY)],
)
def test_a_proxy_in_the_environment_is_not_asked_for_a_dashboard(
    monkeypatch: pytest.MonkeyPatch, address: str, proxy: str
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, PROXY)
    asked: list[str] = []

    def request(method: str, url: str, proxies: dict[str, str] | None = None, **how: Any) -> requests.Response:
        merged = requests.Session().merge_environment_settings(url, dict(proxies or {}), None, None, None)["proxies"]
        asked.append(requests.utils.select_proxy(url, merged) or "")
        response = requests.Response()
        response.status_code = 200
        response._content = json.dumps({"version": "9", "ray_version": ray.__version__, "ray_commit": ""}).encode()
        return response

    monkeypatch.setattr(requests, "request", request)
    job_client(address, 5.0).get_version()
    assert set(asked) == {proxy}
