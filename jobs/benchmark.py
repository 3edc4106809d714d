#!/usr/bin/env -S python -P
"""Measures MARS on the device at hand: `train`, `generate`, `tokenize`, `feed` take times,
`punish` kills, `size` counts parameters."""

import jobs  # noqa: F401  # isort: skip
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import ray
import torch
import tyro
from rich.table import Table

from jobs.common.cli import run_job
from jobs.common.punish import Punish, punish
from jobs.common.recipes import load_recipe
from pipeline.architecture.geometries import GEOMETRIES, with_layers
from pipeline.architecture.mars_config import MarsConfig
from pipeline.benchmarks.feed import FeedBenchmark, measure_feed, write_tokens
from pipeline.benchmarks.generation import GenerationBenchmark, measure_generation
from pipeline.benchmarks.ray_over_plain import ray_over_plain, release_gpu_memory
from pipeline.benchmarks.step import StepBenchmark, device_name, measure_step
from pipeline.config.gpus import ASSUMED_MFU, peak_flop_per_s
from pipeline.errors import UsageError
from pipeline.planning.flops import count_parameters, expert_parameters
from pipeline.planning.recipe_plan import DAY_S, plan_recipe
from pipeline.runtime.ray_connection import connect_to_ray
from pipeline.runtime.terminal import console, say
from tokenization.config.sources import PACKAGED, SHIPPED, CorpusSource
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.vqgan import OPEN_MUSE
from tokenization.config.workers import Workers
from tokenization.corpora.corpus import Corpus
from tokenization.demo.noise import write_noise_shard
from tokenization.files.storage import open_storage
from tokenization.job.benchmark import encoder_flop, measure_tokenization
from tokenization.job.rows import Tools
from tokenization.table.token_table import MANIFEST_FILE
from tokenization.vqgan.model import build_vqgan

TRAINED_BYTES, FROZEN_BYTES, ACTIVATION_BYTES = 8, 2, 160_000
"""On a GPU, bf16: a trained parameter with its gradient and two moments; a frozen one; and what the backward pass of
Qwen-7B's layer keeps of a position, both experts run (the naive baseline), about 2 * (20 * 4,096)."""


@dataclass(frozen=True)
class Train:
    """Times a training step: SemVIE, a dense model of its active size, both experts everywhere, the text prefix with
    gradient, the joint normalisation, and the whole loop with and without Ray."""

    json: bool = False
    """Print the figures as one JSON object on the last line."""
    geometry: Literal["auto", "qwen_7b", "small"] = "auto"
    """Model size. auto: qwen_7b on a GPU, with as many layers as fit; small on a CPU."""
    layers: int = 0
    """Layers instead of the geometry's, or of as many as fit. 0: not given."""
    rows: int = 0
    """Packed rows of the micro-batch. 0: 1 on a GPU, 4 on a CPU."""
    samples_per_row: int = 0
    """Samples of 77 text ids and 256 codes in a row. 0: 12 on a GPU, 1 on a CPU."""
    rounds: int = 9
    """Rounds in which every variant runs one step."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 on a GPU, float32 on a CPU."""
    attention: Literal["auto", "sdpa", "eager", "flex_attention"] = "auto"
    """auto: flex_attention on a GPU, eager on a CPU."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile the layers of all variants. auto: on a GPU."""
    loop_steps: int = 18
    """Steps of each run of the loop, with and without Ray; the first third does not count. 0 leaves the loop out."""
    loop_runs: int = 3
    """Runs of the loop with and without Ray that count, alternating, after one of each that does not."""


@dataclass(frozen=True)
class Generate:
    """Times drawing pictures: with the static cache, without one, and with transformers' `generate`; high-resolution
    codes K at once and one by one."""

    json: bool = False
    """Print the figures as one JSON object on the last line."""
    geometry: Literal["auto", "qwen_7b", "small"] = "auto"
    """Model size. auto: qwen_7b on a GPU, small on a CPU."""
    layers: int = 0
    """Layers instead of the geometry's. 0: not given."""
    batch_size: int = 0
    """Pictures drawn at once. 0: 16 on a GPU, 1 on a CPU."""
    num_codes: int = 256
    """Codes of a picture."""
    group_size: int = 4
    """K of next-K-token prediction."""
    rounds: int = 3
    """Rounds in which every variant draws a batch, after one that does not count."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 on a GPU, float32 on a CPU."""


@dataclass(frozen=True)
class Size:
    """Counts the parameters of a geometry, without making the model."""

    json: bool = False
    """Print the figures as one JSON object on the last line."""
    geometry: Literal["qwen_7b", "qwen2_1_5b", "small"] = "qwen_7b"
    """Model size."""


@dataclass(frozen=True)
class Tokenize:
    """Times tokenization on a corpus of noise: the pipeline at steady state, its parts alone on the same cores, and the
    loop that takes one picture at a time."""

    json: bool = False
    """Print the figures as one JSON object on the last line."""
    geometry: Literal["auto", "open_muse", "demo"] = "auto"
    """VQ-GAN. auto: open-muse's size with random weights on a GPU, the demo's on a CPU."""
    rows: int = 4000
    """Pictures of the corpus."""
    source_px: int = 384
    """Shorter side of its JPEGs, px; the longer one is up to half as long again."""
    resolution: int = 256
    """Side of the square that is encoded, px."""
    encode_batch_size: int = 32
    """Pictures that are encoded at once."""
    naive_rows: int = 200
    """Pictures for the loop of one at a time."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16, as the demo and mars_7b encode."""


@dataclass(frozen=True)
class Feed:
    """Measures how long training would wait for its samples: one rank's loader at the pace of a recipe's steps, on
    random tokens in a folder or in S3."""

    json: bool = False
    """Print the figures as one JSON object on the last line."""
    recipe: str = "mars_7b"
    """Name in `jobs/recipes`."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Override one value of the recipe, as in scaling.num_workers=8; repeatable."""
    stage: int = 1
    """Stage, from 1."""
    place: str = ""
    """Folder or s3://bucket/prefix for the tokens, 30 MB to 1 GB; what is there of an earlier measurement is read
    again. Default: a folder for temporary files."""
    gpu: str = ""
    """GPU model whose pace is kept, instead of the recipe's."""
    mfu: float = ASSUMED_MFU
    """Share of the GPU's peak that the pace assumes."""
    steps: int = 40
    """Steps that count."""
    shard_rows: int = 1000
    """Rows of a shard of tokens: small ones, so that the steps run through several windows."""


Options = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Tokenize, tyro.conf.subcommand("tokenize")]
    | Annotated[Feed, tyro.conf.subcommand("feed")]
    | Annotated[Punish, tyro.conf.subcommand("punish")]
    | Annotated[Size, tyro.conf.subcommand("size")]
)


def main(options: Train | Generate | Tokenize | Feed | Punish | Size) -> dict[str, Any]:
    """Measures and shows what the options say."""
    if isinstance(options, Size):
        figures = sizes(options)
    elif isinstance(options, Generate):
        figures = generate(options)
    elif isinstance(options, Feed):
        figures = feed(options)
    elif isinstance(options, Punish):
        figures = punish(options)
    else:
        figures = train(options) if isinstance(options, Train) else tokenize(options)
    table = Table(show_header=False)
    for name, value in figures.items():
        table.add_row(
            name,
            f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value),
        )
    console.print(table)
    return figures


def sizes(options: Size) -> dict[str, Any]:
    """Parameters of a geometry."""
    config = GEOMETRIES[options.geometry]
    counts = count_parameters(config)
    return {
        "geometry": options.geometry,
        "vocab_size": config.vocab_size,
        "total_parameters": counts.total,
        "trainable_parameters": counts.trainable,
        "active_parameters": counts.active,
    }


def tokenize(options: Tokenize) -> dict[str, Any]:
    """Times tokenization."""
    for name, least in (("rows", 1000), ("naive_rows", 10), ("source_px", 16), ("encode_batch_size", 1)):
        if getattr(options, name) < least:
            raise UsageError(f"{name} is {getattr(options, name)}, it must be at least {least}")
    connect_to_ray()
    use_gpu = torch.cuda.is_available()
    workers = Workers(num_encoders=torch.cuda.device_count() or os.cpu_count() or 1, use_gpu=use_gpu)
    config = TokenizationConfig(
        size_px=options.resolution,
        encode_batch_size=options.encode_batch_size,
        encoder_dtype="bfloat16" if options.dtype == "auto" else options.dtype,
    )
    geometry = options.geometry if options.geometry != "auto" else "open_muse" if use_gpu else "demo"
    with tempfile.TemporaryDirectory() as folder:
        vqgan = SHIPPED
        if geometry == "open_muse":
            vqgan = Path(folder) / "vq"
            build_vqgan(OPEN_MUSE).save_pretrained(vqgan)
        tools = Tools(vqgan, PACKAGED, Path(folder) / "text")
        shard_rows = max(options.naive_rows + 10, options.rows // 16, 4 * options.encode_batch_size)
        write = ray.remote(write_noise_shard)
        ray.get(
            [
                write.remote(
                    Path(folder) / f"corpus/{start:06d}.tar",
                    start,
                    min(shard_rows, options.rows - start),
                    options.source_px,
                    0,
                )
                for start in range(0, options.rows, shard_rows)
            ]
        )
        corpus = Corpus(CorpusSource(f"{folder}/corpus"))
        rates = measure_tokenization(corpus, config, tools, workers, options.rows, options.naive_rows, say)
        flop = encoder_flop(config, tools)
    device = device_name(torch.device("cuda" if use_gpu else "cpu"))
    peak = peak_flop_per_s(device) if use_gpu else None
    return {
        "device": device if use_gpu else f"CPU, {os.cpu_count()} cores",
        "geometry": geometry,
        "encoders": workers.num_encoders,
        "encoder_flop_per_image": flop,
        "images_per_s": rates.pipeline,
        "bare_encoder_images_per_s": rates.encoder,
        "reader_images_per_s": rates.reader,
        "naive_images_per_s": rates.naive,
        "ratio_to_ideal": rates.pipeline / rates.ideal(use_gpu),
        "speedup_over_naive": rates.pipeline / rates.naive,
        "peak_rss_bytes": rates.peak_rss_bytes,
        "encoder_mfu": flop * rates.encoder / workers.num_encoders / peak if peak else None,
    }


def feed(options: Feed) -> dict[str, Any]:
    """Measures the loader."""
    for name in ("steps", "shard_rows"):
        if getattr(options, name) < 1:
            raise UsageError(f"{name} is {getattr(options, name)}, it must be at least 1")
    recipe = load_recipe(options.recipe, options.set)
    if not 1 <= options.stage <= len(recipe.stages):
        raise UsageError(f"--stage {options.stage}: recipe {recipe.name!r} has the stages 1 to {len(recipe.stages)}")
    plan = plan_recipe(recipe, [options.stage], options.gpu, options.mfu)
    (planned,) = plan.stages
    if planned.gpu_days is None:
        raise UsageError(f"recipe {recipe.name!r} trains on CPUs, whose pace nobody knows; name a recipe for GPUs")
    benchmark = FeedBenchmark(
        stage=planned.stage,
        stage_number=options.stage,
        vocabulary=plan.config.vocabulary,
        lengths=plan.lengths,
        world_size=recipe.scaling.num_workers,
        step_s=planned.gpu_days * DAY_S / recipe.scaling.num_workers / planned.stage.steps,
        steps=options.steps,
        shard_rows=options.shard_rows,
    )
    say(
        f"benchmark: stage {options.stage} of {recipe.name}, {planned.stage.global_batch_size} samples every "
        f"{benchmark.step_s:.2f} s, the pace of {recipe.scaling.num_workers} {plan.device.name} at MFU {options.mfu:g}"
    )
    with tempfile.TemporaryDirectory() as folder:
        place = options.place or folder
        if MANIFEST_FILE not in open_storage(place).names():
            write_tokens(place, benchmark, say)
        figures = measure_feed(place, benchmark, say)
    return {"recipe": recipe.name, "stage": options.stage, "place": options.place or "a local folder"} | figures


def generate(options: Generate) -> dict[str, Any]:
    """Times drawing."""
    for name, least in (("layers", 0), ("batch_size", 0), ("num_codes", 1), ("group_size", 1), ("rounds", 1)):
        if getattr(options, name) < least:
            raise UsageError(f"{name} is {getattr(options, name)}, it must be at least {least}")
    if options.num_codes % options.group_size:
        raise UsageError(f"group_size {options.group_size} does not divide num_codes {options.num_codes}")
    on_gpu = torch.cuda.is_available()
    geometry = options.geometry if options.geometry != "auto" else "qwen_7b" if on_gpu else "small"
    config = GEOMETRIES[geometry]
    dtype = options.dtype if options.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    benchmark = GenerationBenchmark(
        config=with_layers(config, options.layers) if options.layers else config,
        batch_size=options.batch_size or (16 if on_gpu else 1),
        num_codes=options.num_codes,
        group_size=options.group_size,
        rounds=options.rounds,
        dtype=getattr(torch, dtype),
    )
    device = torch.device("cuda" if on_gpu else "cpu")
    say(
        f"benchmark: {geometry}, {benchmark.config.num_hidden_layers} layers, {benchmark.batch_size} pictures, {device}"
    )
    figures = measure_generation(benchmark, device, say)
    return {"geometry": f"{geometry}, {benchmark.config.num_hidden_layers} layers"} | figures


def train(options: Train) -> dict[str, Any]:
    """Times the step, then the loop."""
    benchmark, geometry = step_benchmark(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    say(
        f"benchmark: {geometry}, {benchmark.config.num_hidden_layers} layers, {benchmark.rows} rows of "
        f"{benchmark.samples_per_row} samples, {benchmark.attention} attention, on {device}"
    )
    figures: dict[str, Any] = {"geometry": f"{geometry}, {benchmark.config.num_hidden_layers} layers"}
    figures |= measure_step(benchmark, device, say)
    if options.loop_steps:
        release_gpu_memory()
        figures["ray_over_plain"] = ray_over_plain(benchmark, options.loop_steps, options.loop_runs)
    return figures


def step_benchmark(options: Train) -> tuple[StepBenchmark, str]:
    """The options with every automatic choice made, and the geometry's name."""
    at_least = {"rounds": 1, "loop_runs": 1, "loop_steps": 0, "layers": 0, "rows": 0, "samples_per_row": 0}
    for name, least in at_least.items():
        if getattr(options, name) < least:
            raise UsageError(f"{name} is {getattr(options, name)}, it must be at least {least}")
    on_gpu = torch.cuda.is_available()
    geometry = options.geometry if options.geometry != "auto" else "qwen_7b" if on_gpu else "small"
    rows = options.rows or (1 if on_gpu else 4)
    samples_per_row = options.samples_per_row or (12 if on_gpu else 1)
    config, layers = GEOMETRIES[geometry], options.layers
    if not layers:
        layers = layers_that_fit(config, rows * samples_per_row * 333) if on_gpu else config.num_hidden_layers
    dtype = options.dtype if options.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    benchmark = StepBenchmark(
        config=with_layers(config, layers),
        rows=rows,
        samples_per_row=samples_per_row,
        row_multiple=64 if on_gpu else 1,
        rounds=options.rounds,
        dtype=getattr(torch, dtype),
        attention=options.attention if options.attention != "auto" else "flex_attention" if on_gpu else "eager",
        compile_layers=options.compile == "yes" or (options.compile == "auto" and on_gpu),
    )
    return benchmark, geometry


def layers_that_fit(config: MarsConfig, tokens: int) -> int:
    """Layers of a model that the free memory of the GPU trains, a tenth of it left free."""
    free_bytes, _ = torch.cuda.mem_get_info()
    counts = count_parameters(with_layers(config, 0))
    tables = TRAINED_BYTES * counts.trainable + FROZEN_BYTES * (counts.total - counts.trainable)
    each = (TRAINED_BYTES + FROZEN_BYTES) * expert_parameters(with_layers(config, 1)) + 2 * ACTIVATION_BYTES * tokens
    return max(1, min(config.num_hidden_layers, int((0.9 * free_bytes - tables) / each)))


if __name__ == "__main__":
    run_job(Options, main, __doc__)
