#!/usr/bin/env -S python -P
"""Serves a trained model over HTTP on Ray Serve: OpenAI's interface for pictures, captions and illustrated documents,
and a page to try it in a browser.

Newer checkpoints of the run are taken over while it serves. Ctrl-C or SIGTERM end it after the requests under way.
"""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jobs.common.cli import JobOptions, at_least, run_job
from pipeline.config.serving import LOOPBACK, MIN_TOKEN_LENGTH, ServerSettings, ServingLimits
from pipeline.errors import InputError, UsageError
from pipeline.runs.paths import RunPaths

LIMITS, USUAL = ServingLimits(), ServerSettings()


def _default(what: object) -> Any:
    """Shows in --help the value of a flag that is not given."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {what})")


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `serve`."""

    checkpoint: str = ""
    """A run's folder, for its newest finished checkpoint; a stage's folder; one checkpoint; or a folder that
    export_model made (default: the run of --recipe and --root)."""
    host: str = USUAL.host
    """Address to listen on. Others than loopback need --token-file."""
    port: int = USUAL.port
    """Port to listen on."""
    token_file: Annotated[str, _default("none")] = ""
    """File with the secret that requests must send, at least 16 characters, as OpenAI's clients send their API key."""
    batch_size: int = USUAL.batch_size
    """Pictures, captions and documents that a replica makes at once. `generate` with the same batch size draws the same
    pictures."""
    replicas: int = USUAL.min_replicas
    """Replicas of the model."""
    max_replicas: Annotated[int, _default("as --replicas")] = 0
    """Replicas may grow to this number while requests wait, and shrink again after a minute."""
    cpus_per_replica: float = USUAL.cpus_per_replica
    """CPUs of a replica."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """What replicas run on. auto: what the run was trained on."""
    follow_s: float = USUAL.follow_s
    """Seconds between two looks for a newer checkpoint; 0 keeps the first one."""
    max_outstanding: int = LIMITS.max_outstanding
    """Pictures, captions and documents that may wait or be made at once; requests beyond it get 429."""
    max_pictures: int = LIMITS.max_pictures
    """Pictures of one request."""
    max_document_pictures: int = LIMITS.max_document_pictures
    """Pictures of one illustrated document."""
    max_document_text_ids: int = LIMITS.max_document_text_ids
    """Text ids of one illustrated document."""
    max_document_prompt_ids: int = LIMITS.max_document_prompt_ids
    """Text ids that a document begins with."""
    max_body_bytes: int = LIMITS.max_body_bytes
    """Bytes of a request's body, uploads included."""
    requests_per_minute: int = LIMITS.requests_per_minute
    """Requests of one client address; 0 for no limit."""
    request_timeout_s: float = LIMITS.request_timeout_s
    """Seconds after which a request is given up."""
    log_prompts: bool = False
    """Write prompts into Ray Serve's log."""
    stop: bool = False
    """Stop the server that runs on the cluster at hand, and do nothing else."""

    def limits(self) -> ServingLimits:
        """The limits of requests."""
        return ServingLimits(**{name: getattr(self, name) for name in vars(LIMITS)})

    def check(self) -> None:
        """Raises UsageError if flags have impossible values."""
        at_least(self, port=1, batch_size=1, replicas=1, max_replicas=0, cpus_per_replica=0, follow_s=0)
        at_least(self, max_outstanding=1, max_pictures=1, max_document_pictures=0, max_document_text_ids=1)
        at_least(self, max_document_prompt_ids=1, max_body_bytes=1000, requests_per_minute=0, request_timeout_s=1)
        if self.port > 65535:
            raise UsageError(f"--port is {self.port}, but must be at most 65535")
        if self.max_replicas and self.max_replicas < self.replicas:
            raise UsageError(f"--max-replicas {self.max_replicas} is below --replicas {self.replicas}")
        if self.host not in LOOPBACK and not self.token_file:
            raise UsageError(
                f"--host {self.host} lets others than this machine in: give --token-file FILE with a secret of at "
                f"least {MIN_TOKEN_LENGTH} characters, or listen on {LOOPBACK[0]}"
            )

    def token(self) -> str:
        """The secret of requests; empty if they need none."""
        if not self.token_file:
            return ""
        try:
            token = Path(self.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--token-file {self.token_file!r} cannot be read: {error}") from error
        if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
            raise InputError(
                f"--token-file {self.token_file!r} must hold one secret of at least {MIN_TOKEN_LENGTH} printable ASCII "
                "characters without spaces"
            )
        return token

    def settings(self, paths: RunPaths) -> ServerSettings:
        """The server's settings."""
        use_gpu = paths.recipe.scaling.use_gpu if self.device == "auto" else self.device == "gpu"
        names = ("host", "port", "batch_size", "cpus_per_replica", "follow_s", "log_prompts")
        return ServerSettings(
            **{name: getattr(self, name) for name in names},
            min_replicas=self.replicas,
            max_replicas=self.max_replicas or self.replicas,
            use_gpu=use_gpu,
            label_selector=paths.recipe.scaling.label_selector,
            limits=self.limits(),
        )


def main(options: Options) -> None:
    options.check()
    token = options.token()
    recipe_paths = options.resolve()[1]
    try:
        from pipeline.serving.admission import token_hash
        from pipeline.serving.model_source import model_source
        from pipeline.serving.server import serve_model, stop_server
    except ModuleNotFoundError as error:
        raise UsageError(
            f"serving needs {error.name}, which is not installed; install the extra: pip install 'mars-on-ray[serve]'"
        ) from error
    if options.stop:
        stop_server()
        return
    source = model_source(options.checkpoint, recipe_paths)
    serve_model(source, options.settings(recipe_paths), token_hash(token) if token else "")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
