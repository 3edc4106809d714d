"""Stopping a server touches nothing else."""

import pytest

from pipeline.errors import InputError
from pipeline.serving import server


def test_stopping_where_there_is_no_cluster_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray took seconds to start, only to say that no server runs in it."""
    monkeypatch.setattr(server, "starts_ray_here", lambda: True)
    monkeypatch.setattr(server, "connect_to_ray", lambda: pytest.fail("a Ray is started"))
    with pytest.raises(InputError, match="no server runs on a Ray cluster here"):
        server.stop_server()
