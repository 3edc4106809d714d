"""The loop that trains one stage, run by every rank, without Ray."""

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
from pipeline.deepspeed_engine import ZeroConfig, make_engine
from pipeline.errors import InputError, NonFiniteError
from pipeline.extension_lock import await_extension_lock
from pipeline.metrics import peak_flop_per_s
from pipeline.model import MarsForCausalLM
from pipeline.objective import Objective
from pipeline.optimizer_slices import optimizer_steps, trained_shapes
from pipeline.order import MixedOrder, SampleOrder
from pipeline.plan import StagePlan, Step
from pipeline.replica_check import ReplicaCheck, check_same_language_expert
from pipeline.resume import Identity, resume
from pipeline.row_index import SourceRows, rows_sha256
from pipeline.sequences import SequenceBuilder
from pipeline.stage_config import StageConfig
from pipeline.step_guard import SKIPPED_FILE, StepGuard, write_skipped
from pipeline.step_verification import verify_step
from pipeline.token_data import TokenReader
from pipeline.trackers import Trackers
from pipeline.train_step import learning_rate, set_learning_rate, step_figures, train_step
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
        verify_only: run the next step twice and compare, instead of training.
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
    verify_only: bool = False


Report = Callable[[dict[str, Any]], None]
"""Called on rank 0 after every step with its figures."""
Tell = Callable[[str], None]
"""Called on rank 0 with a line for whoever runs the job."""


def train_stage(run: StageRun, device: torch.device, report: Report, tell: Tell) -> None:
    """Trains the stage to its end, from its newest checkpoint that verifies, where it has one.

    Raises:
        InputError: the last checkpoint could not be written; or see `pipeline.resume`.
        NonFiniteError: see `StepGuard`.
        CorruptionError: see `ReplicaCheck`; where the run only verifies, see `verify_step`.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    stage = run.stage

    def tell_of_stage(line: str) -> None:
        tell(f"stage {run.stage_number}: {line}")

    model, base_hash = starting_model(run, device)
    check_same_language_expert(base_hash)
    plan = make_plan(run, model.config.vocabulary)
    asked = examinations(stage, run.stage_number, run.held_out, plan.builder)
    if device.type == "cpu":
        await_extension_lock(tell_of_stage)
    engine = make_engine(Objective(model, stage.normalisation), stage, run.zero)
    replicas = ReplicaCheck(engine)
    identity = Identity(run.recipe_sha256, base_hash, rows_sha256(run.sources))
    guard = StepGuard(stage.spike_factor, stage.roll_back_after, stage.end_after)
    kept = Kept(stage.keep_checkpoints, stage.keep_every_steps)
    # Before anything is read: an attempt that still runs must not remove it meanwhile.
    writer = None if run.verify_only else CheckpointWriter(run.checkpoints, kept, tell_of_stage)
    taken = resume(engine, run.checkpoints, identity, tell_of_stage)
    start_step = taken.step if taken else 0
    if taken:
        guard.load(taken.guard)
    if writer is None:
        next_step = min(start_step, stage.steps - 1)
        set_learning_rate(engine, learning_rate(stage, next_step))
        tell_of_stage(verify_step(engine, plan.step(next_step, rank, world_size), stage, device))
        return

    saved, stalls = time.monotonic(), dict[str, float]()

    def save(done: int, finished: bool) -> None:
        nonlocal saved, stalls
        stall_s = writer.save(engine, manifest_of(engine, run, done, finished, identity, guard))
        now = time.monotonic()
        stalls = {"checkpoint_stall_s": stall_s, "checkpoint_stall_share": stall_s / (now - saved)}
        saved = now

    trackers = Trackers(run.trackers, run.output, run.name, asdict(stage), start_step) if rank == 0 else None
    steps = prefetch(plan, start_step, stage.steps, rank, world_size, pin=device.type == "cuda")
    peak = peak_flop_per_s(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    for number in range(start_step, stage.steps):
        started, done = time.monotonic(), number + 1
        step = next(steps)
        data_wait_s = time.monotonic() - started
        set_learning_rate(engine, learning_rate(stage, number))
        result = train_step(engine, step, stage, guard, device)
        figures = step_figures(engine, step, stage, result, number)
        figures |= {"step_s": time.monotonic() - started, "data_wait_s": data_wait_s, "skipped_steps": guard.skipped}
        if peak:
            figures["mfu"] = figures["flop"] / (figures["step_s"] * world_size * peak)
        if result.problem:
            first_lost = done
            tell_of_stage(f"step {done} is skipped: {result.problem}; its samples are in {SKIPPED_FILE}")
            if guard.must_roll_back:
                writer.wait()
                back = resume(engine, run.checkpoints, identity, tell_of_stage)
                first_lost = back.step + 1 if back else done
                if back is None:
                    tell_of_stage("there is no checkpoint to go back to")
            if rank == 0:
                write_skipped(run.output, first_lost, done, result.problem, step.sample_ids)
        if is_due(stage.compare_every_steps, done):
            replicas(step, result.task_losses)
        if is_due(stage.validate_every_steps, done) or done == stage.steps:
            figures |= examine(engine, asked, device)
        if run.samples and is_due(stage.sample_every_steps, done):
            picture = draw_samples(engine, run.samples, rank)
            if trackers and picture is not None:
                trackers.picture("samples", picture, done)
        figures |= stalls
        stalls = {}
        if rank == 0:
            report(figures)
            assert trackers is not None
            trackers.scalars(figures, done)
        ends = guard.must_end
        if ends:
            guard.in_row = 0  # a new attempt starts counting anew
        # Among skipped steps the weights are those under suspicion: what a roll back is to find lies before them.
        due = is_due(stage.save_every_steps, done) and not result.problem
        if ends or due or done == stage.steps:
            save(done, finished=done == stage.steps and not ends)
        if ends:
            counts = writer.wait()
            where = "them" if counts else "the newest checkpoint"
            raise NonFiniteError(
                f"the last {stage.end_after} steps up to {done} were skipped, this one because {result.problem}; "
                f"{'a checkpoint was written' if counts else 'no checkpoint could be written'}. Look at the samples in "
                f"{str(run.output / SKIPPED_FILE)!r}, and at the learning rate; the same command goes on behind {where}"
            )
    finished_before = taken is not None and taken.finished
    if start_step == stage.steps and not finished_before:  # the attempt before ended on its last step's numbers
        save(stage.steps, finished=True)
    if not finished_before and not writer.wait():
        save(stage.steps, finished=True)
        if not writer.wait():
            raise InputError(
                f"the last checkpoint could not be written to {run.checkpoints!r}; make room, and run again"
            )
    if trackers:
        trackers.close()


def is_due(every: int, done: int) -> bool:
    """Whether something that happens every so many steps, 0 for never, happens after `done` of them."""
    return every > 0 and done % every == 0


def starting_model(run: StageRun, device: torch.device) -> tuple[MarsForCausalLM, str]:
    """The model as the stage starts, set up to train, and the hash of its language expert.

    Raises:
        InputError: the checkpoint to start from does not fit.
    """
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
    return model, base_hash


def manifest_of(
    engine: Any, run: StageRun, step: int, finished: bool, identity: Identity, guard: StepGuard
) -> CheckpointManifest:
    """What is to be said of a checkpoint after `step` steps; its files come later."""
    return CheckpointManifest(
        step=step,
        optimizer_steps=optimizer_steps(engine),
        samples=step * run.stage.global_batch_size,
        world_size=dist.get_world_size(),
        finished=finished,
        shapes=trained_shapes(engine),
        files={},
        guard=guard.state(),
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
