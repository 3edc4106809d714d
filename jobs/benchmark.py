#!/usr/bin/env -S python -P
"""Measures MARS on this machine's device: `train`, `generate`, `serve`, `tokenize`, `feed` and `gpu` measure times,
`punish` injects kills, `count` counts collectives and the host's time, `predict` checks the plan's predictions,
`checkpoint` and `messages` measure the metadata and the messages of many ranks, `size` counts parameters.
"""

import jobs  # noqa: F401  # isort: skip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jobs.common.cli import JobOptions, at_least, run_job
from jobs.common.figures import show
from jobs.common.recipes import load_recipe
from pipeline.config.benchmarks import (
    CheckpointSettings,
    CountSettings,
    FeedSettings,
    GenerateSettings,
    GpuSettings,
    KillSettings,
    MessageSettings,
    PredictSettings,
    ServeSettings,
    TokenizeSettings,
    TrainSettings,
)
from pipeline.errors import UsageError
from pipeline.runs.paths import checkout


@dataclass(frozen=True)
class Shown:
    """What every benchmark takes."""

    json: bool = False
    """Print the figures as one JSON object on the last line."""


@dataclass(frozen=True)
class OfRecipe(Shown):
    """What a benchmark of a recipe takes that is no run."""

    recipe: str = "mars_7b"
    """Name in `jobs/recipes`, or the path of a .py file."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Override one value of the recipe, as in zero.zero_stage=2; repeatable."""


@dataclass(frozen=True)
class Train(TrainSettings, Shown):
    """Times a training step: SemVIE, a dense model of its active size, both experts everywhere, the text prefix with
    gradient, the joint normalisation, and the whole loop with and without Ray."""


@dataclass(frozen=True)
class Generate(GenerateSettings, Shown):
    """Times the drawing of pictures with the static cache, without a cache, and with transformers' `generate`, and of
    high-resolution codes K at once and one by one.
    """


@dataclass(frozen=True)
class Serve(ServeSettings, JobOptions, Shown):
    """Times a server of the recipe's run beside `generate` at the same batch: clients at once, and a lone request. Then
    many clients, some of which hang up or send what is refused, while a replica is killed: is every answer right?
    """


@dataclass(frozen=True)
class Tokenize(TokenizeSettings, Shown):
    """Times tokenization on a corpus of noise: the pipeline at steady state, its parts alone on the same cores, and a
    loop over single pictures. With --null-encoder: the CPU time of the driver, the writers and Ray's own processes.
    """


@dataclass(frozen=True)
class Feed(FeedSettings, OfRecipe):
    """Measures the time that training would wait for its samples: runs one rank's loader at the pace of a recipe's
    steps, on random tokens in a folder or in a bucket.
    """


@dataclass(frozen=True)
class Punish(KillSettings, JobOptions, Shown):
    """Trains the recipe's first stage twice on a cluster of local nodes: undisturbed, and while workers, nodes and the
    driver are killed with SIGKILL at random, some of them while a checkpoint is written. Prints the cost, and if both
    end with the same weights and moments, bit for bit. Other clusters on the machine are left alone.
    """


@dataclass(frozen=True)
class Count(CountSettings, OfRecipe):
    """Counts what a step of a recipe costs besides its arithmetic, with the real code on a narrow model and collectives
    that move nothing: CPU seconds of the host, collectives and their bytes, for training and for drawing samples.
    """


@dataclass(frozen=True)
class Gpu(GpuSettings, OfRecipe):
    """Measures a recipe's first stage on one GPU as one rank of many: the step of host and kernels, attention, waits
    for the device, generation, the loss, the encoder, a resume, copies. Each part has a process and a clock of its own,
    and a part that fails leaves the others. Needs no Ray. On a CPU it runs a small form of all parts.
    """


@dataclass(frozen=True)
class Predict(PredictSettings, Shown):
    """Compares the plan's predictions of a step with measured steps of two and four ranks on this machine's CPU, behind
    links that are throttled: what the ranks compute and what their links reach is measured, the rest is predicted.
    Needs Linux, root and iproute2.
    """


@dataclass(frozen=True)
class Checkpoint(CheckpointSettings, Shown):
    """Times what a checkpoint of many ranks costs beside its bytes: records, manifest, listing, one rank's reading."""


@dataclass(frozen=True)
class Messages(MessageSettings, Shown):
    """Measures which share of a core head, driver, monitor and ledger take for a group of many workers. A few processes
    stand for the workers."""


@dataclass(frozen=True)
class Size(Shown):
    """Counts the parameters of a geometry, without making the model."""

    geometry: Literal["qwen_7b", "qwen2_1_5b", "small"] = "qwen_7b"
    """Model size."""


Options = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Tokenize, tyro.conf.subcommand("tokenize")]
    | Annotated[Feed, tyro.conf.subcommand("feed")]
    | Annotated[Punish, tyro.conf.subcommand("punish")]
    | Annotated[Count, tyro.conf.subcommand("count")]
    | Annotated[Gpu, tyro.conf.subcommand("gpu")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Checkpoint, tyro.conf.subcommand("checkpoint")]
    | Annotated[Messages, tyro.conf.subcommand("messages")]
    | Annotated[Size, tyro.conf.subcommand("size")]
)


def main(
    options: Train | Generate | Serve | Tokenize | Feed | Punish | Count | Gpu | Predict | Checkpoint | Messages | Size,
) -> dict[str, Any]:
    """Runs the chosen benchmark and shows its figures."""
    benchmarks: dict[type, Callable[[Any], dict[str, Any]]] = {
        Train: train,
        Generate: generate,
        Serve: serve,
        Tokenize: tokenize,
        Feed: feed,
        Punish: punish,
        Count: count,
        Gpu: gpu,
        Predict: predict,
        Checkpoint: checkpoint,
        Messages: messages,
        Size: size,
    }
    figures = benchmarks[type(options)](options)
    show(figures)
    return figures


def train(options: Train) -> dict[str, Any]:
    """Times the training step and the training loop."""
    at_least(options, rounds=1, loop_runs=1, loop_steps=0, layers=0, rows=0, samples_per_row=0)

    from pipeline.benchmarks.training import benchmark_training

    return benchmark_training(options)


def generate(options: Generate) -> dict[str, Any]:
    at_least(options, layers=0, batch_size=0, num_codes=1, group_size=1, rounds=1)
    if options.num_codes % options.group_size:
        raise UsageError(f"group_size {options.group_size} does not divide num_codes {options.num_codes}")

    from pipeline.benchmarks.generation import benchmark_generation

    return benchmark_generation(options)


def serve(options: Serve) -> dict[str, Any]:
    at_least(options, batch_size=1, batches=1, lone_requests=1, clients=1, requests=0, port=1)
    _, paths = options.resolve()

    from pipeline.benchmarks.serving.run import benchmark_serving

    return benchmark_serving(options, paths)


def tokenize(options: Tokenize) -> dict[str, Any]:
    at_least(options, rows=1000, naive_rows=10, source_px=16, encode_batch_size=1)
    at_least(options, null_readers=0, null_picture_px=8, null_rows=100, null_shard_rows=1)
    if not options.null_encoders or min(options.null_encoders) < 1:
        raise UsageError(f"--null-encoders {options.null_encoders} must be numbers above 0")
    if options.null_encoder:
        from pipeline.benchmarks.null_encoder import benchmark_null_encoder

        return benchmark_null_encoder(options)

    from pipeline.benchmarks.tokenization import benchmark_tokenization

    return benchmark_tokenization(options)


def checkpoint(options: Checkpoint) -> dict[str, Any]:
    at_least(options, ranks=1, parameters=1)

    from pipeline.benchmarks.checkpoint_metadata import benchmark_checkpoint

    return benchmark_checkpoint(options)


def messages(options: Messages) -> dict[str, Any]:
    at_least(options, ranks=1, seconds=1, step_s=0.01)

    from pipeline.benchmarks.group_messages import benchmark_messages

    return benchmark_messages(options)


def feed(options: Feed) -> dict[str, Any]:
    at_least(options, steps=1, shard_rows=1, ranks=0, samples_per_rank=1, index_rows=1)
    recipe = load_recipe(options.recipe, options.set)

    from pipeline.benchmarks.feed import benchmark_feeding

    return benchmark_feeding(options, recipe)


def punish(options: Punish) -> dict[str, Any]:
    for name in ("minutes", "save_every_steps", "most_kills", "pause_s"):
        if getattr(options, name) <= 0:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(options, name)}, but must be above 0")
    recipe, _ = options.resolve()
    root = Path(options.root or checkout() / "runs").absolute() / "punish"

    from pipeline.benchmarks.punishment import benchmark_kills

    return benchmark_kills(options, recipe, options.recipe, root, options.set)


def count(options: Count) -> dict[str, Any]:
    at_least(options, ranks=2, ranks_per_node=1, layers=0)
    recipe = load_recipe(options.recipe, options.set)

    from pipeline.benchmarks.count import benchmark_counts

    return benchmark_counts(options, recipe)


def predict(options: Predict) -> dict[str, Any]:
    if not options.mbit_per_s or min(options.mbit_per_s) <= 0:
        raise UsageError(f"--mbit-per-s {options.mbit_per_s} must be rates above 0")

    from pipeline.benchmarks.throttled.run import benchmark_predictions

    return benchmark_predictions(options)


def gpu(options: Gpu) -> dict[str, Any]:
    at_least(options, minutes=0.1, ranks=2, ranks_per_node=1)
    recipe = load_recipe(options.recipe, options.set)

    from pipeline.benchmarks.gpu.run import benchmark_gpu

    return benchmark_gpu(options, recipe)


def size(options: Size) -> dict[str, Any]:
    from pipeline.benchmarks.sizes import parameters_of

    return parameters_of(options.geometry)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
