"""The loop that trains one stage, run by every rank, without Ray."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.checkpoints import new_folder_name, newest_verified, read_manifest, remove_all_but, write_manifest
from pipeline.deepspeed_engine import ZeroConfig, accumulate, make_engine
from pipeline.errors import InputError, NonFiniteError
from pipeline.metrics import flop_of, peak_flop_per_s
from pipeline.objective import Objective
from pipeline.order import MixedOrder, SampleOrder
from pipeline.plan import StagePlan, Step
from pipeline.sequences import SequenceBuilder, Task
from pipeline.stage_config import StageConfig
from pipeline.token_data import SourceRows, TokenReader, rows_sha256
from pipeline.trackers import Trackers
from pipeline.training_samples import SamplePrompts, draw_samples
from pipeline.validation import examinations, examine
from pipeline.vocabulary import JointVocabulary
from pipeline.weights import ENGINE_TAG, base_sha256, load_base, load_trained, trained_state

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class StageRun:
    """Everything a rank needs to train one stage.

    Attributes:
        stage, stage_number, seed: what to train, and the seed of its order and draws.
        zero: partitioning.
        base: folder of the frozen language expert.
        codebook_size: of the VQ-GAN.
        shared_output_projection: see `MarsConfig`.
        embedding_noise_std: see `MarsConfig`.
        initial_checkpoint: the stage before's last checkpoint, whose weights this one starts from.
        sources: the rows the stage uses.
        held_out: rows that validation measures on.
        instruction_ids, end_id: see `SequenceBuilder`.
        output: the stage's folder.
        recipe_sha256: of what must not change between attempts.
        samples: what is drawn while it trains; None for nothing.
        name: of the run, `recipe/stage1`.
        trackers: see `pipeline.trackers`.
    """

    stage: StageConfig
    stage_number: int
    seed: int
    zero: ZeroConfig
    base: Path
    codebook_size: int
    shared_output_projection: bool
    embedding_noise_std: float
    initial_checkpoint: Path | None
    sources: tuple[SourceRows, ...]
    held_out: tuple[SourceRows, ...]
    instruction_ids: dict[str, list[int]]
    end_id: int
    output: Path
    recipe_sha256: str
    samples: SamplePrompts | None = None
    name: str = ""
    trackers: tuple[str, ...] = ()


Report = Callable[[dict[str, Any]], None]
"""Called on rank 0 after every step with its figures."""


def train_stage(run: StageRun, device: torch.device, report: Report) -> None:
    """Trains the stage to its end, from its newest verified checkpoint where it has one.

    Raises:
        NonFiniteError: a loss was NaN or infinite; the update was not applied.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model = load_base(
        run.base,
        run.codebook_size,
        getattr(torch, run.zero.dtype),
        embedding_noise_std=run.embedding_noise_std,
        shared_output_projection=run.shared_output_projection,
    )
    base_hash = base_sha256(model)
    if run.initial_checkpoint:
        if read_manifest(run.initial_checkpoint).base_sha256 != base_hash:
            raise InputError(
                f"checkpoint {str(run.initial_checkpoint)!r} was trained on another language expert than "
                f"{str(run.base)!r}; train the stage before again, or put its language expert back"
            )
        load_trained(model, trained_state(run.initial_checkpoint), run.initial_checkpoint)
    model.set_attn_implementation(run.stage.attention)
    if model.config._attn_implementation != run.stage.attention:  # transformers would only warn
        raise InputError(f"this transformers does not let MARS train with attention {run.stage.attention!r}")
    if run.stage.checkpoint_every_layers:
        model.model.checkpoint_every = run.stage.checkpoint_every_layers
        model.gradient_checkpointing_enable()
    if run.stage.compile_layers:
        model.model.compile_layers(partitioned=run.zero.zero_stage == 3)
    if run.zero.frozen_whole:
        model.to(device).keep_frozen_whole()
    plan = make_plan(run, model.config.vocabulary)
    asked = examinations(run.stage, run.stage_number, run.held_out, plan.builder)
    engine = make_engine(Objective(model, run.stage.normalisation), run.stage, run.zero)
    start_step = resume(engine, run, base_hash, world_size)
    trackers = Trackers(run.trackers, run.output, run.name, asdict(run.stage), start_step) if rank == 0 else None

    steps = prefetch(plan, start_step, run.stage.steps, rank, world_size, pin=device.type == "cuda")
    peak = peak_flop_per_s(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    for number in range(start_step, run.stage.steps):
        started = time.monotonic()
        step = next(steps)
        data_wait_s = time.monotonic() - started
        set_learning_rate(engine, learning_rate(run.stage, number))
        sums = train_step(engine, step, device)
        figures = summarise(run, engine, step, sums, number)
        done = number + 1
        figures |= {"step_s": time.monotonic() - started, "data_wait_s": data_wait_s}
        if peak:
            figures["mfu"] = figures["flop"] / (figures["step_s"] * world_size * peak)
        every = run.stage.validate_every_steps
        if (every and done % every == 0) or done == run.stage.steps:
            figures |= examine(engine, asked, device)
        if run.samples and done % run.stage.sample_every_steps == 0:
            picture = draw_samples(engine, run.samples, rank)
            if trackers and picture is not None:
                trackers.picture("samples", picture, done)
        if rank == 0:
            report(figures)
            assert trackers is not None
            trackers.scalars(figures, done)
        if done % run.stage.save_every_steps == 0 or done == run.stage.steps:
            save(engine, run, done, base_hash, world_size, rank)
    if trackers:
        trackers.close()


def make_plan(run: StageRun, vocabulary: JointVocabulary) -> StagePlan:
    """The stage's plan over its rows."""
    window = run.stage.window_shards
    orders = [
        SampleOrder(source.index.counts, run.seed, run.stage_number, window, number)
        for number, source in enumerate(run.sources)
    ]
    mixed = MixedOrder(orders, [source.weight for source in run.sources], run.stage.global_batch_size)
    readers = [TokenReader(source.tokens, source.index, held_shards=window + 1) for source in run.sources]
    builder = SequenceBuilder(vocabulary, run.instruction_ids, run.end_id)
    return StagePlan(run.stage, run.stage_number, run.seed, mixed, readers, builder)


def train_step(engine: Any, step: Step, device: torch.device) -> torch.Tensor:
    """One optimizer step. Returns the summed loss of each task over all ranks, float32 [tasks].

    Raises:
        NonFiniteError: on all ranks alike, before the update.
    """
    sums = torch.zeros(len(Task), device=device)
    for number, batches in enumerate(step.micro_steps, start=1):
        part = engine([batch.to(device) for batch in batches])
        sums += part.task_losses
        accumulate(engine, part.loss, last=number == len(step.micro_steps))
        if number < len(step.micro_steps):
            engine.step()
    dist.all_reduce(sums)
    if not bool(sums.isfinite().all()):
        ids = ", ".join(step.sample_ids[:4])
        raise NonFiniteError(f"a loss is not finite ({sums.tolist()}) in the step of samples {ids}, ...")
    engine.step()
    return sums


def summarise(run: StageRun, engine: Any, step: Step, sums: torch.Tensor, number: int) -> dict[str, Any]:
    """The step's figures: mean loss by task, and what it processed on all ranks."""
    batches = [batch for micro_step in step.micro_steps for batch in micro_step]
    tokens = sum(batch.work.tokens for batch in batches)
    padded = sum(batch.work.padded_tokens for batch in batches)
    config = engine.module.mars.config
    flop = sum(flop_of(batch, config, run.stage.normalisation).total for batch in batches)
    totals = torch.tensor([tokens, padded, flop], dtype=torch.float64)
    totals = totals.to(sums.device)
    dist.all_reduce(totals)
    figures: dict[str, Any] = {
        f"loss/{task.name.lower()}": sums[task.value].item() / int(step.label_counts[task.value])
        for task in Task
        if step.label_counts[task.value]
    }
    norm = engine.get_global_grad_norm()
    return figures | {
        "step": number + 1,
        "learning_rate": learning_rate(run.stage, number),
        "gradient_norm": float(norm) if norm is not None else math.nan,
        "skipped_steps": engine.skipped_steps,
        "samples": step.num_samples,
        "tokens": int(totals[0]),
        "padding_fraction": 1 - totals[0].item() / totals[1].item(),
        "flop": totals[2].item(),
    }


def prefetch(plan: StagePlan, start: int, end: int, rank: int, world_size: int, pin: bool = False) -> Iterator[Step]:
    """The steps from `start` to `end`, each built (and put into pinned memory) while the one before trains."""

    def build(number: int) -> Step:
        step = plan.step(number, rank, world_size)
        if not pin:
            return step
        return replace(step, micro_steps=[[batch.pinned() for batch in batches] for batches in step.micro_steps])

    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        following = pool.submit(build, start) if start < end else None
        for number in range(start, end):
            assert following is not None
            current = following.result()
            if number + 1 < end:
                following = pool.submit(build, number + 1)
            yield current


def learning_rate(stage: StageConfig, step: int) -> float:
    """Linear warmup, then a cosine to the final rate at the last step."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    done = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    span = stage.learning_rate - stage.final_learning_rate
    return stage.final_learning_rate + span * (1 + math.cos(math.pi * done)) / 2


def set_learning_rate(engine: Any, value: float) -> None:
    """Sets it in every parameter group, times the group's factor."""
    for group in engine.optimizer.param_groups:
        group["lr"] = value * group["rate_factor"]


def resume(engine: Any, run: StageRun, base_hash: str, world_size: int) -> int:
    """Loads the newest verified checkpoint of this stage, if any. Returns the steps done.

    Raises:
        InputError: the checkpoint is of another recipe, base, selection of rows, or number of workers.
    """
    found = newest_verified(run.output / "checkpoints")
    if found is None:
        return 0
    folder, manifest, _ = found
    for name, have, want in (
        ("stage settings", manifest.recipe_sha256, run.recipe_sha256),
        ("language expert", manifest.base_sha256, base_hash),
        ("selection of rows", manifest.row_index_sha256, rows_sha256(run.sources)),
        ("number of workers", manifest.world_size, world_size),
    ):
        if have != want:
            raise InputError(
                f"checkpoint {str(folder)!r} was made with another {name}; undo the change, or choose another --root"
            )
    loaded, _ = engine.load_checkpoint(folder, ENGINE_TAG, load_module_strict=False)
    assert loaded is not None, folder
    return manifest.step


def save(engine: Any, run: StageRun, step: int, base_hash: str, world_size: int, rank: int) -> None:
    """Every rank writes its part; rank 0 closes the checkpoint with its manifest."""
    name = [new_folder_name(step)]
    dist.broadcast_object_list(name, src=0)
    folder = run.output / "checkpoints" / name[0]
    engine.save_checkpoint(folder, ENGINE_TAG, exclude_frozen_parameters=True, save_latest=False)
    dist.barrier()
    if rank == 0:
        write_manifest(
            folder,
            step=step,
            samples=step * run.stage.global_batch_size,
            world_size=world_size,
            finished=step == run.stage.steps,
            base_sha256=base_hash,
            recipe_sha256=run.recipe_sha256,
            row_index_sha256=rows_sha256(run.sources),
        )
        remove_all_but(folder, KEPT_CHECKPOINTS)
    dist.barrier()
