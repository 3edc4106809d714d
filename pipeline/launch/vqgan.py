"""Trains a VQ-GAN on Ray Train, and measures it over a corpus."""

import operator
import shlex
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import ray
import torch
import torch.distributed as dist
from ray.actor import ActorProxy

from pipeline.config.recipe import Recipe
from pipeline.demo.corpora import attribution_of, make_corpus
from pipeline.launch.attempts import check_workers
from pipeline.launch.ray_train import join_worker_group, run_worker_group, worker_group
from pipeline.launch.reporting import Monitor, RankReporter
from pipeline.ledger.account import Counts
from pipeline.ledger.actor import LedgerActor
from pipeline.runs.attempt import connect_run, ledger_attempt
from pipeline.runs.paths import RunPaths
from pipeline.runtime.actors import actor_here
from pipeline.runtime.messages import relaying_messages
from pipeline.runtime.placement import reserved
from pipeline.runtime.terminal import say
from tokenization.config.vqgan import VqganConfig
from tokenization.corpora.corpus import Corpus
from tokenization.files.atomic_writing import write_atomically
from tokenization.files.room import naming_full_disk
from tokenization.vqgan.data import picture_batches, with_synthetic
from tokenization.vqgan.formats import load_vqgan
from tokenization.vqgan.quality import Quality, quality_of_shard
from tokenization.vqgan.training import train_vqgan

CARD = """# VQ-GAN {name}

{architecture}, factor {factor}, {codebook_size:,} codes, {parameters:,} parameters, stored in float16.
Pixels run from -1 to 1; a code is the nearest codebook row to the encoder's output.

| | |
|---|---|
| command | `{command}` |
| data | {data} |
| steps | {steps:,} of {batch} pictures at {size} px |
| pictures measured | {pictures:,} |
| PSNR through the codes at {size} px | {psnr:.2f} dB |
| PSNR through the codes at {double} px | {psnr_double:.2f} dB |
| codes in use at {size} px | {used:,} |

PSNR is that of the mean squared error over all pictures.
"""

ARCHITECTURE = {
    "vqmodel": "A diffusers `VQModel`",
    "pixel_shuffle": "This project's `PixelShuffleNetwork` (`tokenization/vqgan/pixel_shuffle_network.py`)",
}


class VqganMonitor(Monitor[dict[str, float]]):
    """Actor that receives rank 0's figures, writes a line for each and counts them in the ledger."""

    def __init__(self, steps: int, batch_size: int, ledger: ActorProxy[LedgerActor]) -> None:
        super().__init__()
        self._steps, self._batch_size, self._ledger = steps, batch_size, ledger
        self._last_step = 0.0

    @ray.method
    def post(self, figures: dict[str, float]) -> None:
        self._keep(
            f"vqgan  step {figures['step']:.0f}/{self._steps}  psnr {figures['psnr_db']:.2f} dB  "
            f"{figures['images_per_s']:.1f} pictures/s"
        )
        self._ledger.working.remote()
        steps = figures["step"] - self._last_step
        self._ledger.add.remote(Counts(steps=steps, samples=steps * self._batch_size))
        self._last_step = figures["step"]


def make_vqgan(recipe: Recipe, paths: RunPaths, command: list[str], measure_only: bool) -> None:
    """Trains the recipe's VQ-GAN from where the last attempt stopped, measures it, and writes its model card.

    Args:
        recipe, paths: recipe and paths of the run; the VQ-GAN is written to `paths.vq`.
        command: the command line of the job, for the card.
        measure_only: only measure the existing VQ-GAN and rewrite its card.
    """
    if not recipe.corpus.path:
        make_corpus(recipe.first_corpus, recipe, paths)
    corpus, config, scaling = Corpus(paths.corpus_source), recipe.vqgan, recipe.scaling
    connect_run(paths, scaling.use_gpu)
    check_workers(scaling)
    paths.vq.mkdir(parents=True, exist_ok=True)
    with ledger_attempt(paths, "train_vqgan", scaling.use_gpu) as ledger:
        if not measure_only:
            monitor = actor_here(VqganMonitor).remote(config.steps, config.global_batch_size, ledger)
            worker = VqganWorker(config, corpus, paths.vq, monitor)
            with relaying_messages(monitor):
                run_worker_group(worker_group(worker, scaling, "vqgan", paths.vq / "ray_train"))
        by_size = _measured(recipe, paths, corpus)
    card = _card(recipe, command, paths.vq, by_size)
    write_atomically(paths.vq / "README.md", lambda partial: partial.write_text(card))
    say(f"vqgan: weights and card are in {paths.vq}")


def _measured(recipe: Recipe, paths: RunPaths, corpus: Corpus) -> dict[int, Quality]:
    """Returns the quality over all pictures by their side in px: the trained side and twice that."""
    by_size: dict[int, Quality] = {}
    measure = ray.remote(num_cpus=1)(quality_of_shard)
    dtype = getattr(torch, recipe.tokenization.encoder_dtype)
    for size_px in (recipe.vqgan.image_size_px, 2 * recipe.vqgan.image_size_px):
        with reserved(recipe.scaling.num_cpus) as strategy:
            of_shard = measure.options(scheduling_strategy=strategy)
            pending = [of_shard.remote(paths.vq, corpus, shard, size_px, dtype) for shard in corpus.shards]
            by_size[size_px] = reduce(operator.add, ray.get(pending))
        say(f"vqgan: {by_size[size_px].psnr_db:.2f} dB at {size_px} px, {by_size[size_px].used.sum()} codes in use")
    return by_size


@dataclass(frozen=True)
class VqganWorker:
    """Trains the VQ-GAN as one rank. Called in the worker's process. Rank 0 saves the model in float16."""

    config: VqganConfig
    corpus: Corpus
    output: Path
    monitor: ActorProxy[VqganMonitor]

    def __call__(self) -> None:
        context, config = join_worker_group(), self.config
        rank, world_size = dist.get_rank(), dist.get_world_size()
        batch_size = config.global_batch_size // world_size
        size_px = 2 * config.image_size_px
        batches = picture_batches(self.corpus, size_px, batch_size, rank, world_size, config.seed)
        if config.synthetic_share:
            batches = with_synthetic(batches, config.synthetic_share, size_px, batch_size, rank, config.seed)
        reporter = RankReporter[dict[str, float]](self.monitor, rank)
        try:
            model = train_vqgan(config, batches, self.output, context.device, reporter.post)
            if rank == 0:
                with naming_full_disk(self.output):
                    model.half().save_pretrained(self.output)
        finally:
            reporter.flush()


def _card(recipe: Recipe, command: list[str], folder: Path, by_size: dict[int, Quality]) -> str:
    """Returns the model card. Every number comes from the run."""
    config, size = recipe.vqgan, recipe.vqgan.image_size_px
    model = load_vqgan(folder).model
    return CARD.format(
        name=recipe.name,
        architecture=ARCHITECTURE[config.architecture],
        factor=config.factor,
        codebook_size=config.codebook_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        command=shlex.join(command),
        data=recipe.corpus.path or attribution_of(recipe.corpus),
        steps=config.steps,
        batch=config.global_batch_size,
        size=size,
        double=2 * size,
        pictures=by_size[size].pictures,
        psnr=by_size[size].psnr_db,
        psnr_double=by_size[2 * size].psnr_db,
        used=int(by_size[size].used.sum()),
    )
