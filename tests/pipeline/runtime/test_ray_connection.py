"""An address that no job can join is refused in one line that says which one is meant, before Ray waits for it."""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from pipeline.errors import OutageError, UsageError
from pipeline.runtime import ray_connection
from pipeline.runtime.cluster_watch import answers
from pipeline.runtime.ray_connection import check_address
from tests.support.ports import free_port
from tokenization import waiting


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "an address of Ray Client"),
        ("http://127.0.0.1:8265", "ray job submit --address http://127.0.0.1:8265"),
        ("https://cluster.example", "ray job submit --address https://cluster.example"),
        ("head", "must be HOST:PORT, 'auto' or 'local'"),
        ("head:port", "must be HOST:PORT"),
        ("10.0.0.1:6379:1", "must be HOST:PORT"),
        (" ", "must be HOST:PORT"),
    ],
)
def test_an_address_of_another_form_is_refused_with_the_form_that_is_meant(address: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_address(address)
    assert said in str(caught.value) and repr(address) in str(caught.value)


def test_an_address_where_nothing_listens_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    for address in (f"127.0.0.1:{free_port()}", "no.such.host.invalid:6379", "127.0.0.1:99999"):
        with pytest.raises(OutageError, match="nothing listens at RAY_ADDRESS"):
            check_address(address)
    monkeypatch.setattr(ray_connection, "read_cluster_address", lambda: None)
    with pytest.raises(OutageError, match="no Ray cluster runs on this machine"):
        check_address("auto")
    assert time.monotonic() - started < 15


def test_an_address_where_a_cluster_may_be_is_taken() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    check_address(f"127.0.0.1:{port}")
    server.stop(None).wait()
    check_address("local")


def close_two(server: socket.socket) -> None:
    for _ in range(2):
        server.accept()[0].close()


@pytest.mark.slow
@pytest.mark.parametrize("does", ["closes", "is silent"])
def test_another_server_at_the_address_is_not_taken_for_a_cluster(monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    monkeypatch.setattr(ray_connection, "ANSWER_S", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if does == "closes":
            threading.Thread(target=close_two, args=(server,), daemon=True).start()
        with pytest.raises(OutageError, match="is no Ray cluster, or it hangs. Start one with"):
            check_address(address)


def test_the_address_a_killed_cluster_left_behind_is_not_waited_for() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert not answers(f"127.0.0.1:{port}")
        listener.listen()
        assert answers(f"127.0.0.1:{port}")
    assert not answers(None)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_only_a_ray_started_here_on_cpus_is_trimmed_for_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], has_gpu: bool
) -> None:
    started: dict[str, Any] = {}
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(ray_connection.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_connection.ray, "init", lambda address, **options: started.update(options, address=address))
    monkeypatch.setattr(ray_connection.ray, "cluster_resources", lambda: {"CPU": 3.0})
    joined = SimpleNamespace(gcs_address="10.0.0.1:6379")
    monkeypatch.setattr(ray_connection.ray, "get_runtime_context", lambda: joined)
    monkeypatch.setattr(ray_connection, "has_gpu_driver", lambda: has_gpu)
    monkeypatch.setattr(ray_connection, "is_cluster", lambda address: address == "10.0.0.1:6379")
    monkeypatch.setattr(ray_connection, "answers", lambda address: True)
    monkeypatch.setattr(ray_connection, "head_keeps_state", lambda: True)
    monkeypatch.setattr(ray_connection._Own, "cluster", False)  # as it is again afterwards
    monkeypatch.setattr(ray_connection, "watch_cluster", lambda address, in_use: None)
    monkeypatch.setattr(ray_connection, "prepare_machine", lambda: None)
    ray_connection.connect_to_ray()
    assert started["address"] == "local" and started["include_dashboard"] is (None if has_gpu else False)
    for name in ("MALLOC_MMAP_MAX_", "RAY_worker_niceness"):
        assert (name in environment) is not has_gpu
    assert "Ray: started here, for this job, with 3 CPUs" in capsys.readouterr().err

    environment.clear()
    environment["RAY_ADDRESS"] = "10.0.0.1:6379"
    ray_connection.connect_to_ray()
    assert started["address"] == "10.0.0.1:6379" and started["include_dashboard"] is None
    assert "MALLOC_MMAP_MAX_" not in environment
    assert "Ray: joined the cluster at 10.0.0.1:6379" in capsys.readouterr().err


def test_a_ray_that_takes_long_to_start_is_told_of_and_one_that_fails_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(*address: str, **settings: Any) -> None:
        time.sleep(0.5)
        raise RuntimeError("the node timed out during startup")

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(ray_connection.ray, "init", start)
    monkeypatch.setattr(ray_connection, "POLL_S", 0.05)
    monkeypatch.setattr(waiting, "FIRST_S", 0.2)
    with pytest.raises(OutageError, match=r"Ray could not start .* timed out .* its logs are in .* same command again"):
        ray_connection.connect_to_ray()
    assert "waiting for Ray to start on this machine" in capsys.readouterr().err
