"""Starts a server on the Ray cluster at hand, keeps its model the newest one, and stops it without losing a request."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import ray
from ray import serve
from ray.serve import Deployment
from ray.serve.config import AutoscalingConfig, HTTPOptions, ProxyLocation
from ray.serve.handle import DeploymentHandle

from pipeline.config.serving import ServerSettings
from pipeline.errors import InputError, OutageError, UsageError
from pipeline.runtime.ray_connection import check_gpus, connect_to_ray, is_own_cluster, starts_ray_here
from pipeline.runtime.ray_private import kept_over_changes
from pipeline.runtime.shortage import check_obtainable, saying_what_is_awaited
from pipeline.runtime.terminal import say, say_error
from pipeline.serving.deployment import LOST, Front, Replica, ReplicaSettings
from pipeline.serving.following import ReplicaLostError, follow
from pipeline.serving.guard import Access
from pipeline.serving.model_source import ModelSource
from pipeline.serving.served_model import ServedModel
from tokenization.config.node_labels import NodeNeeds

APPLICATION = "mars"
DRAIN_S = 60.0
"""Seconds that requests have to end when the server is stopped."""
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 3.0, 60.0
TRY_S = 1800.0
"""Seconds that a replica has to load a newer model."""
WAITING_SHARE = 2
"""Jobs that a replica has at once, over those that it makes at once: the others begin as soon as rows are free."""


def serve_model(source: ModelSource, settings: ServerSettings, token_hash: str = "") -> None:
    """Serves the newest model of `source` until the job is interrupted.

    Args:
        source: where models come from.
        settings: settings of the server.
        token_hash: of the token that requests need; empty for none.

    Raises:
        UsageError: the port is taken, or a server runs on this cluster already.
        InputError: there is no model.
        OutageError: the server did not start.
    """
    check_gpus(settings.use_gpu)
    served = source()
    connect_to_ray()
    try:
        with serving(served, settings, token_hash) as url:
            say(f"serve: {url} serves {served.name!r}, checkpoint {served.source}; Ctrl-C ends it")
            if not settings.follow_s:
                threading.Event().wait()
            follow(source, served, partial(_take_over, settings=settings, token_hash=token_hash), settings.follow_s)
    except KeyboardInterrupt:
        say("serve: stopped, after the requests that were under way")


@contextmanager
def serving(served: ServedModel, settings: ServerSettings, token_hash: str = "") -> Iterator[str]:
    """Runs a server on the connected cluster, and stops it at the end of the block. Yields its URL."""
    check_obtainable([_needs(settings)], "change --cpus-per-replica, --device or --set scaling.label_selector")
    others = is_running_serve()
    if others and APPLICATION in serve.status().applications:
        raise UsageError("a server runs on this cluster already; end it with Ctrl-C in its job, or with --stop")
    if not others:
        check_port(settings.host, settings.port)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # the job says by itself what happens
    try:
        with saying_what_is_awaited("serve"):
            _start(served, settings, token_hash)
        yield f"http://{_shown_host(settings.host)}:{settings.port}"
    finally:
        stop(not others)


def stop(all_of_serve: bool) -> None:
    """Lets requests end for up to `DRAIN_S`, then removes the server, and Ray Serve if nothing else needs it."""
    if not is_running_serve():
        return
    if APPLICATION in serve.status().applications:
        _drain(serve.get_app_handle(APPLICATION))
        serve.delete(APPLICATION)
    if (all_of_serve or not serve.status().applications) and not is_own_cluster():  # which ends with the job
        serve.shutdown()


def stop_server() -> None:
    """Stops the server of this cluster, whichever job started it.

    Raises:
        InputError: none runs.
    """
    if not starts_ray_here():
        connect_to_ray()
    if not is_running_serve() or APPLICATION not in serve.status().applications:
        raise InputError("no server runs on a Ray cluster here; name its cluster with RAY_ADDRESS")
    stop(all_of_serve=False)
    say("serve: stopped, after the requests that were under way")


def is_running_serve() -> bool:
    """True if Ray Serve runs on the cluster of this process."""
    if not ray.is_initialized():
        return False
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def check_port(host: str, port: int) -> None:
    """Raises UsageError if nothing can listen at `host`:`port`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(f"--host {host} --port {port}: {error.strerror}; name another one") from error


def _start(served: ServedModel, settings: ServerSettings, token_hash: str) -> DeploymentHandle[Any]:
    http = HTTPOptions(host=settings.host, port=settings.port)
    serve.start(ProxyLocation.HeadOnly, http, logging_config={"enable_access_log": False})
    try:
        return _deploy(served, settings, token_hash)
    except RuntimeError as error:
        raise OutageError(f"the server did not start: {error}; Ray's logs of the replicas say more") from error


def _deploy(served: ServedModel, settings: ServerSettings, token_hash: str) -> DeploymentHandle[Any]:
    limits, rows, needs = settings.limits, settings.batch_size, _needs(settings)
    if settings.max_replicas > settings.min_replicas:
        number: dict[str, Any] = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=settings.min_replicas,
                max_replicas=settings.max_replicas,
                target_ongoing_requests=rows,
                upscale_delay_s=5.0,
                downscale_delay_s=60.0,
            )
        }
    else:
        number = {"num_replicas": settings.min_replicas}
    common: dict[str, Any] = {
        "user_config": served.to_json(),
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_timeout_s": DRAIN_S,
    }
    replica = cast(Deployment, serve.deployment(Replica)).options(
        ray_actor_options={
            "num_cpus": needs.resources["CPU"],
            "num_gpus": needs.resources.get("GPU", 0.0),
            "label_selector": dict(needs.label_selector),
        },
        max_ongoing_requests=WAITING_SHARE * rows,
        **common,
        **number,
    )
    options = {"ray_actor_options": {"num_cpus": 0}, "max_ongoing_requests": 100_000, "num_replicas": 1, **common}
    front = cast(Deployment, serve.deployment(Front)).options(**options)
    access = Access(settings.host, token_hash, limits.max_body_bytes)
    replica, front = kept_over_changes(replica, APPLICATION), kept_over_changes(front, APPLICATION)
    application = front.bind(
        replica.bind(ReplicaSettings(limits, rows, settings.use_gpu)), limits, access, served.name, settings.log_prompts
    )
    return serve.run(application, name=APPLICATION, route_prefix="/", logging_config={"enable_access_log": False})


def _take_over(served: ServedModel, settings: ServerSettings, token_hash: str) -> None:
    """Lets one replica load a model beside its own, then tells all of them to serve it.

    Raises:
        InputError: it cannot be loaded.
        ReplicaLostError: the replica has ended meanwhile.
    """
    replicas: DeploymentHandle[Any] = serve.get_deployment_handle(Replica.__name__, APPLICATION)
    try:
        problem = replicas.try_model.remote(served.to_json()).result(timeout_s=TRY_S)
    except LOST as error:
        raise ReplicaLostError(
            f"a replica ended while it loaded checkpoint {served.source}; two models must fit into its memory"
        ) from error
    if problem:
        raise InputError(f"checkpoint {served.source} cannot be loaded: {problem}")
    _deploy(served, settings, token_hash)


def _drain(front: DeploymentHandle[Any]) -> None:
    deadline = time.monotonic() + DRAIN_S
    try:
        while (left := front.drain.remote().result(timeout_s=10)) and time.monotonic() < deadline:
            time.sleep(0.2)
    except (TimeoutError, RuntimeError, ray.exceptions.RayError) as error:
        say_error(f"serve: requests could not be waited for: {error}")
        return
    if left:
        say_error(f"serve: {left} requests did not end in {DRAIN_S:g} s")


def _needs(settings: ServerSettings) -> NodeNeeds:
    resources = {"CPU": settings.cpus_per_replica} | ({"GPU": 1.0} if settings.use_gpu else {})
    return NodeNeeds(resources, settings.label_selector)


def _shown_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
