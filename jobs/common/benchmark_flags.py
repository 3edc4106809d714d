"""Flags of `jobs/benchmark.py`: a class for each of its subcommands."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jobs.common.cli import JobOptions
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
    SpeculateSettings,
    TokenizeSettings,
    TrainSettings,
)


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
class Speculate(SpeculateSettings, JobOptions, Shown):
    """Draws pictures of the recipe's run from captions that it was trained on, with drafts of codes and without, in
    turns: how much sooner are they there, and are they the same?
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
    | Annotated[Speculate, tyro.conf.subcommand("speculate")]
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
