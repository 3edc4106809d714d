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

from pipeline.checkpoint_writer import CheckpointWriter, Kept
from pipeline.checkpoints import Checkpoint, CheckpointManifest
from pipeline.deepspeed_engine import ZeroConfig, accumulate, make_engine
from pipeline.errors import InputError, NonFiniteError
from pipeline.metrics import flop_of, peak_flop_per_s
from pipeline.objective import Objective
from pipeline.optimizer_slices import optimizer_steps, trained_shapes
from pipeline.order import MixedOrder, SampleOrder
from pipeline.plan import StagePlan, Step
from pipeline.resume import Identity, resume
from pipeline.sequences import SequenceBuilder, Task
from pipeline.stage_config import StageConfig
from pipeline.token_data import SourceRows, TokenReader, rows_sha256
from pipeline.trackers import Trackers
from pipeline.training_samples import SamplePrompts, draw_samples
from pipeline.validation import examinations, examine
from pipeline.vocabulary import JointVocabulary
from pipeline.weights import base_sha256, load_base, load_trained, trained_state


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
        checkpoints: folder or URL of this stage's checkpoints.
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
    initial_checkpoint: Checkpoint | None
    sources: tuple[SourceRows, ...]
    held_out: tuple[SourceRows, ...]
    instruction_ids: dict[str, list[int]]
    end_id: int
    output: Path
    checkpoints: str
    recipe_sha256: str
    samples: SamplePrompts | None = None
    name: str = ""
    trackers: tuple[str, ...] = ()


Report = Callable[[dict[str, Any]], None]
"""Called on rank 0 after every step with its figures."""
Tell = Callable[[str], None]
"""Called on rank 0 with a line for whoever runs the job."""


def train_stage(run: StageRun, device: torch.device, report: Report, tell: Tell) -> None:
    """Trains the stage to its end, from its newest checkpoint that verifies, where it has one.

    Raises:
        InputError: the last checkpoint could not be written; or see `pipeline.resume`.
        NonFiniteError: a loss was NaN or infinite; the update was not applied.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()

    def tell_of_stage(line: str) -> None:
        tell(f"stage {run.stage_number}: {line}")

    model = load_base(
        run.base,
        run.codebook_size,
        getattr(torch, run.zero.dtype),
        embedding_noise_std=run.embedding_noise_std,
        shared_output_projection=run.shared_output_projection,
    )
    base_hash = base_sha256(model)
    if run.initial_checkpoint:
        if run.initial_checkpoint.manifest.base_sha256 != base_hash:
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
    identity = Identity(run.recipe_sha256, base_hash, rows_sha256(run.sources))
    kept = Kept(run.stage.keep_checkpoints, run.stage.keep_every_steps)
    writer = CheckpointWriter(run.checkpoints, kept, tell_of_stage)
    start_step = resume(engine, run.checkpoints, identity, tell_of_stage)
    saved = time.monotonic()
    stalls: dict[str, float] = {}
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
        figures |= stalls
        stalls = {}
        if rank == 0:
            report(figures)
            assert trackers is not None
            trackers.scalars(figures, done)
        if done % run.stage.save_every_steps == 0 or done == run.stage.steps:
            stall_s = writer.save(engine, manifest_of(engine, run, done, identity))
            now = time.monotonic()
            stalls = {"checkpoint_stall_s": stall_s, "checkpoint_stall_share": stall_s / (now - saved)}
            saved = now
    if start_step < run.stage.steps and not writer.wait():
        writer.save(engine, manifest_of(engine, run, run.stage.steps, identity))
        if not writer.wait():
            raise InputError(
                f"the last checkpoint could not be written to {run.checkpoints!r}; make room, and run again"
            )
    if trackers:
        trackers.close()


def manifest_of(engine: Any, run: StageRun, step: int, identity: Identity) -> CheckpointManifest:
    """What is to be said of a checkpoint after `step` steps; its files come later."""
    return CheckpointManifest(
        step=step,
        optimizer_steps=optimizer_steps(engine),
        samples=step * run.stage.global_batch_size,
        world_size=dist.get_world_size(),
        finished=step == run.stage.steps,
        shapes=trained_shapes(engine),
        files={},
        **asdict(identity),
    )


def make_plan(run: StageRun, vocabulary: JointVocabulary) -> StagePlan:
    """The stage's plan over its rows."""
    window = run.stage.window_shards
    orders = [
        SampleOrder(source.index.counts, run.seed, run.stage_number, window, number)
        for number, source in enumerate(run.sources)
    ]
    mixed = MixedOrder(orders, [source.weight for source in run.sources], run.stage.global_batch_size)
    high = run.stage.task_shares.get("high_resolution", 0.0) > 0
    readers = [TokenReader(source.tokens, source.index, window + 1, high) for source in run.sources]
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
