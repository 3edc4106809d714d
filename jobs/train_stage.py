#!/usr/bin/env -S python -P
"""Trains the stages of the curriculum on Ray Train and DeepSpeed ZeRO-3."""

import sys
from pathlib import Path

# `jobs/tokenize.py` would hide the standard library's `tokenize` from every script in this folder.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

import json  # noqa: E402
from collections import defaultdict  # noqa: E402
from dataclasses import asdict, dataclass, replace  # noqa: E402
from functools import partial  # noqa: E402
from typing import Annotated, Any  # noqa: E402

import numpy as np  # noqa: E402
import ray  # noqa: E402
import tyro  # noqa: E402

from jobs.common.base import base_config, check_base  # noqa: E402
from jobs.common.budget_limit import given_limits, limits_of  # noqa: E402
from jobs.common.cli import JobOptions, connect_to_ray, counted, run_job, say, say_what_is_short  # noqa: E402
from jobs.common.dry_run import dry_run  # noqa: E402
from jobs.common.exit_codes import UsageError  # noqa: E402
from jobs.common.messages import Messages, saying  # noqa: E402
from jobs.common.recipe import Recipe, sha256_of  # noqa: E402
from jobs.common.recipe_plan import ASSUMED_MFU  # noqa: E402
from jobs.common.run_paths import RunPaths  # noqa: E402
from jobs.common.stage_metrics import StageMetrics  # noqa: E402
from jobs.common.step_figures import METRICS_FILE  # noqa: E402
from jobs.common.tokens import stage_fingerprint  # noqa: E402
from pipeline.attempt_watch import AttemptWatch  # noqa: E402
from pipeline.attempts import following, run_attempts  # noqa: E402
from pipeline.checkpoints import Checkpoint, finished_checkpoint, newest_complete  # noqa: E402
from pipeline.driver_node import actor_here  # noqa: E402
from pipeline.errors import InputError  # noqa: E402
from pipeline.generation import HighResolution  # noqa: E402
from pipeline.order import MixedOrder  # noqa: E402
from pipeline.ray_training import ScalingConfig, run_stage  # noqa: E402
from pipeline.row_index import RowSelection, SourceRows  # noqa: E402
from pipeline.sequences import INSTRUCTIONS  # noqa: E402
from pipeline.stage_config import StageConfig  # noqa: E402
from pipeline.stage_run import StageRun  # noqa: E402
from pipeline.starting_model import is_starting_model  # noqa: E402
from pipeline.stop_request import StopRequest  # noqa: E402
from pipeline.stored_rows import stored_row_index  # noqa: E402
from pipeline.termination import Termination, termination  # noqa: E402
from pipeline.token_data import TokenReader  # noqa: E402
from pipeline.trackers import check_trackers  # noqa: E402
from pipeline.training_samples import SamplePrompts  # noqa: E402
from pipeline.vocabulary import Role  # noqa: E402
from pipeline.weights import check_picture_positions_of  # noqa: E402
from pipeline.work_plan import LONGEST_FRAME  # noqa: E402
from tokenization.errors import OutageError  # noqa: E402
from tokenization.storage import append_whole  # noqa: E402
from tokenization.text_tokenizer import end_of_text_id, load_text_tokenizer, text_ids  # noqa: E402
from tokenization.token_table import Fingerprint  # noqa: E402


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `train_stage`."""

    stage: str = ""
    """Stage to train, from 1, or `all`. Default: the next one that is not finished; of a dry run, all."""
    initial_checkpoint: str = ""
    """Checkpoint, or stage's folder, whose weights a stage starts from. Default: the stage before's last."""
    allow_unfinished: bool = False
    """Start from a stage that did not finish, too."""
    budget_gpu_days: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="[SCOPE=]DAYS")] = ()
    """GPU-days (CPU-days where no GPU trains) that the stage may take in all its attempts, as in 300 or stage=300, or
    the run with all its jobs, as in run=587. May be repeated. At 80% and 95% there is a warning, at 100% a checkpoint
    and the end with exit code 5. The ledger remembers it; 0 takes it away. Default: what the attempt before had."""
    verify_step: bool = False
    """Run the stage's next step twice on its workers and compare, instead of training. Nothing is trained. Exit code 1
    where they differ: a node that computes wrongly spoils weeks."""
    dry_run: bool = False
    """Plan instead: print the resolved recipe, batches, memory, FLOP and GPU-days, or what makes it impossible."""
    json: bool = False
    """With --dry-run: the plan as one JSON object on the last line."""
    gpu: str = ""
    """With --dry-run: GPU model to plan on, as in A100-80GB, instead of the recipe's."""
    mfu: float = ASSUMED_MFU
    """With --dry-run: share of the GPU's peak to assume."""
    cluster: str = ""
    """With --dry-run: cluster file, as in cluster/aws_a100.yaml, to say which nodes the stage will ask for. Exit code 2
    where it can never get them."""


WORTH_A_STARTING_MODEL = 2e9
"""Bytes of a language expert."""
MOST_UNWRITTEN = 100_000
"""Lines of figures kept while the disk takes none, about 50 MB."""


class Board(Messages, AttemptWatch):
    """Actor that takes rank 0's figures: tells them, keeps them as JSON lines, and counts them in the ledger. It also
    watches over the attempt."""

    def __init__(self, run_name: str, stage_number: int, stage: StageConfig, folder: Path, ledger: Any) -> None:
        Messages.__init__(self)
        AttemptWatch.__init__(self, folder, stage.step_timeout_s, self.tell)
        self._stage_number, self._steps, self._every = stage_number, stage.steps, stage.log_every_steps
        self._metrics, self._ledger = folder / METRICS_FILE, ledger
        self._counting: list[ray.ObjectRef] = []
        self._shown = StageMetrics(run_name, str(stage_number))
        self._recent: list[dict[str, Any]] = []
        self._unwritten: list[str] = []

    def post(self, figures: dict[str, Any]) -> None:
        """Takes one step's figures."""
        self._recent.append(figures)
        self._shown.show(figures)
        self._counting.append(self._ledger.train_step.remote(figures))
        self._heed_limits()
        if measured := {name: value for name, value in figures.items() if name.startswith("validation/")}:
            told = "  ".join(f"{name.removeprefix('validation/')} {value:.2f}" for name, value in measured.items())
            self.tell(f"stage {self._stage_number}  step {figures['step']}  held out: {told}")
        if figures["step"] % self._every == 0 or figures["step"] == self._steps:
            self.flush()

    def _heed_limits(self) -> None:
        """Hears what the ledger says to steps before, and waits for nothing."""
        answers, self._counting = ray.wait(self._counting, num_returns=len(self._counting), timeout=0)
        for answer in answers:
            try:
                warnings, stop = ray.get(answer)
            except ray.exceptions.RayError as error:
                self.tell(f"the ledger did not count a step ({type(error).__name__}); its rows say less than was done")
                continue
            for warning in warnings:
                self.tell(warning)
            if stop:
                self.ask_to_stop(StopRequest("budget", stop))

    def flush(self) -> None:
        """Tells a line over the steps since the last one."""
        if not self._recent:
            return
        sums: dict[str, list[float]] = defaultdict(list)
        for figures in self._recent:
            for name, value in figures.items():
                sums[name].append(value)
        mean = {name: sum(values) / len(values) for name, values in sums.items()}
        losses = "  ".join(f"{name[5:]} {value:.3f}" for name, value in mean.items() if name.startswith("loss/"))
        self.tell(
            f"stage {self._stage_number}  step {self._recent[-1]['step']}/{self._steps}  {losses}  "
            f"{sum(sums['tokens']) / sum(sums['step_s']):,.0f} tokens/s  {mean['step_s']:.2f} s/step"
            + (f"  MFU {mean['mfu']:.2f}" if "mfu" in mean else "")
            + (f"  {skipped} steps skipped" if (skipped := self._recent[-1]["skipped_steps"]) else "")
            + f"  waits for data {sum(sums['data_wait_s']) / sum(sums['step_s']):.1%}"
            + (f"  for checkpoints {mean['checkpoint_stall_share']:.1%}" if "checkpoint_stall_share" in mean else "")
        )
        self._unwritten += [json.dumps(figures) + "\n" for figures in self._recent]
        self._recent.clear()
        try:
            append_whole(self._metrics, "".join(self._unwritten))
            self._unwritten.clear()
        except OSError as error:
            self.tell(f"stage {self._stage_number}  {self._metrics.name} cannot be written, tried again later: {error}")
            del self._unwritten[:-MOST_UNWRITTEN]


def main(options: Options) -> dict[str, Any] | None:
    """Trains the named stage, or the next unfinished one; or only plans."""
    if options.dry_run:
        plan_on = (options.gpu, options.mfu)
        return dry_run(options.recipe, options.set, options.stage, *plan_on, options.json, options.cluster)
    if options.json or options.gpu or options.cluster or options.mfu != ASSUMED_MFU:
        raise UsageError("--json, --gpu, --mfu and --cluster are of a plan; add --dry-run, or leave them out to train")
    recipe, paths = options.resolve()
    if not recipe.stages:
        raise UsageError(f"recipe {recipe.name!r} has no stages")
    if options.initial_checkpoint and options.stage == "all":
        raise UsageError("--initial-checkpoint is for one stage; name it with --stage")
    budget = given_limits(options.budget_gpu_days)
    if options.verify_step:
        number = _stage_to_verify(options.stage, recipe, paths)
        run = stage_run(number, recipe, paths, initial_checkpoint(number, options, paths))
        _attempt(replace(run, verify_only=True), paths, Termination(), budget, recipe.scaling)
        return None
    wanted = _wanted_stages(options.stage, recipe, paths)
    if not wanted:
        say(f"train_stage: all {len(recipe.stages)} stages of {recipe.name!r} are finished")
    for number in wanted:
        limits_of(paths, number, budget)
        _train(number, recipe, paths, initial_checkpoint(number, options, paths), budget)
    return None


def initial_checkpoint(number: int, options: Options, paths: RunPaths) -> Checkpoint | None:
    """The checkpoint whose weights stage `number` starts from; none for the first stage, and none where the stage
    before is gone but this one goes on from its own."""
    if not options.initial_checkpoint and number == 1:
        return None
    place = options.initial_checkpoint or paths.checkpoints(number - 1)
    try:
        return finished_checkpoint(place if "://" in place else Path(place).absolute(), options.allow_unfinished)
    except InputError:
        if options.initial_checkpoint or newest_complete(paths.checkpoints(number)) is None:
            raise
        return None


def is_finished(paths: RunPaths, number: int) -> bool:
    """Whether the stage has its last checkpoint."""
    found = newest_complete(paths.checkpoints(number))
    return found is not None and found.manifest.finished


def stage_run(number: int, recipe: Recipe, paths: RunPaths, initial: Checkpoint | None) -> StageRun:
    """Everything the workers need for stage `number`, checked.

    Raises:
        InputError: tokens, language expert or the stage before are missing or do not fit.
    """
    stage = recipe.stages[number - 1]
    check_trackers(recipe.trackers)
    base_config(paths)
    if initial:
        check_picture_positions_of(initial, recipe.picture_position_std)
    fingerprint = stage_fingerprint(recipe, paths, stage)
    longest = fingerprint.num_codes + fingerprint.max_caption_ids + LONGEST_FRAME
    if stage.seq_len < longest:
        raise UsageError(
            f"stage {number} has seq_len {stage.seq_len}; a sample can have {longest} tokens ({fingerprint.num_codes} "
            f"codes, {fingerprint.max_caption_ids} caption ids, {LONGEST_FRAME} around them); raise seq_len"
        )
    sources, held_out = [], []
    for name, source in stage.sources.items():
        tokens, sides, kept = paths.tokens_of(name), source.side_tables, paths.stage(number) / "rows"
        trained = RowSelection(tokens, source.where, sides, stage.seq_len, source.held_out)
        index = stored_row_index(kept / f"{name}.parquet", trained)
        sources.append(SourceRows(name, tokens, index, source.weight))
        if source.held_out:
            validated = RowSelection(tokens, source.held_out, sides, stage.seq_len)
            out = stored_row_index(kept / f"{name}.held_out.parquet", validated)
            held_out.append(SourceRows(name, tokens, out))
    if "high_resolution" in stage.task_shares:
        for rows in [*sources, *held_out]:
            check_high_resolution(number, stage, rows, longest)
        longest += fingerprint.num_codes_hr or 0
    check_base(paths, number, stage, fingerprint, longest)
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    return StageRun(
        stage=stage,
        stage_number=number,
        seed=recipe.seed,
        zero=recipe.zero,
        base=paths.base,
        codebook_size=fingerprint.codebook_size,
        model_options=recipe.model_options(),
        initial_checkpoint=initial,
        sources=tuple(sources),
        held_out=tuple(held_out),
        instruction_ids={language: tokenizer(text)["input_ids"] for language, text in INSTRUCTIONS.items()},
        end_id=end_of_text_id(tokenizer),
        samples=sample_prompts(stage, recipe, paths, fingerprint) if stage.sample_every_steps else None,
        name=f"{recipe.name}/stage{number}",
        trackers=recipe.trackers,
        output=paths.stage(number),
        checkpoints=paths.checkpoints(number),
        recipe_sha256=sha256_of(
            stage.what_is_learned(),
            recipe.seed,
            recipe.shared_output_projection,
            recipe.embedding_noise_std,
            *([recipe.picture_position_std] if recipe.picture_position_std else []),  # runs from before it go on
            recipe.zero.zero_stage,
            recipe.zero.dtype,
            fingerprint,
        ),
    )


def sample_prompts(stage: StageConfig, recipe: Recipe, paths: RunPaths, fingerprint: Fingerprint) -> SamplePrompts:
    """What the stage draws while it trains.

    Raises:
        UsageError: a prompt has more ids than a caption may have.
    """
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    ids = text_ids(tokenizer, list(stage.sample_prompts))
    for prompt, line in zip(stage.sample_prompts, ids, strict=True):
        if len(line) > fingerprint.max_caption_ids:
            raise UsageError(
                f"sample_prompts has {prompt[:40]!r}... with {len(line)} ids, captions have at most "
                f"{fingerprint.max_caption_ids}; shorten it"
            )
    high = None
    if stage.task_shares.get("high_resolution"):
        assert fingerprint.num_codes_hr
        role = Role[stage.high_resolution_role.upper()]
        high = HighResolution(role, stage.high_resolution_group, fingerprint.num_codes_hr)
    return SamplePrompts(ids, fingerprint.num_codes, high, paths.vqgan, fingerprint.encoder_dtype)


def check_high_resolution(number: int, stage: StageConfig, source: SourceRows, longest: int) -> None:
    """Looks at a source's first selected row, before any worker starts."""
    first = int(np.flatnonzero(source.index.counts)[0])
    row = TokenReader(source.tokens, source.index, held_shards=1).row(first, 0)
    if row.document is not None:
        return
    if row.high_codes is None:
        raise InputError(
            f"stage {number} has task high_resolution, but sample {row.sample_id!r} has no high-resolution codes; "
            "tokenize them, or leave such rows out with the stage's `where`"
        )
    num_codes, group_size = len(row.high_codes), stage.high_resolution_group
    if num_codes % group_size:
        raise UsageError(f"stage {number}: high_resolution_group {group_size} does not divide {num_codes} codes")
    if stage.seq_len < longest + num_codes:
        raise UsageError(
            f"stage {number} has seq_len {stage.seq_len}; a sample can have {longest + num_codes} tokens; raise it"
        )


def _wanted_stages(text: str, recipe: Recipe, paths: RunPaths) -> list[int]:
    numbers = range(1, len(recipe.stages) + 1)
    if text == "all":
        return [number for number in numbers if not is_finished(paths, number)]
    if not text:
        return [number for number in numbers if not is_finished(paths, number)][:1]
    if not text.isdigit() or int(text) not in numbers:
        raise UsageError(f"--stage {text!r}: recipe {recipe.name!r} has the stages 1 to {len(numbers)}, or say all")
    if is_finished(paths, int(text)):
        say(f"train_stage: stage {text} is already finished in {paths.stage(int(text))}")
        return []
    return [int(text)]


def _stage_to_verify(text: str, recipe: Recipe, paths: RunPaths) -> int:
    numbers = range(1, len(recipe.stages) + 1)
    if text.isdigit() and int(text) in numbers:
        return int(text)
    if text:
        raise UsageError(f"--stage {text!r}: --verify-step is of one of the stages 1 to {len(numbers)}")
    return next((number for number in numbers if not is_finished(paths, number)), numbers[-1])


def _train(number: int, recipe: Recipe, paths: RunPaths, initial: Checkpoint | None, budget: dict[str, float]) -> None:
    run = stage_run(number, recipe, paths, initial)
    stage, output = run.stage, paths.stage(number)
    output.mkdir(parents=True, exist_ok=True)
    (output / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2, ensure_ascii=False))
    scaling = recipe.scaling
    say(f"stage {number}: {stage.purpose}")
    taken = MixedOrder([], [each.weight for each in run.sources], stage.global_batch_size).taken(stage.steps)
    for source, samples in zip(run.sources, taken, strict=True):
        rows = int(source.index.counts.sum())
        longer = f"; {source.index.num_too_long:,} documents longer than seq_len {stage.seq_len} are left out"
        say(
            f"stage {number}: {source.name}: {rows:,} rows, {samples:,} samples ({samples / rows:.1f} epochs)"
            + (longer if source.index.num_too_long else "")
        )
    say(
        f"stage {number}: {stage.steps} steps of {stage.global_batch_size} samples, "
        f"{scaling.num_workers} {'GPU' if scaling.use_gpu else 'CPU'} workers, ZeRO-{recipe.zero.zero_stage}"
    )
    if initial:
        say(f"stage {number}: starts from the weights of {initial}")
    if recipe.zero.zero_stage == 3 and not is_starting_model(run.base):
        _say_what_is_loaded_whole(number, run.base)
    connect_to_ray()
    with termination() as known:
        attempt = partial(_attempt, run, paths, known, budget)
        run_attempts(attempt, scaling, partial(_saved_step, run), known, partial(_say_of, number))
    say(f"stage {number}: finished, in {output}")


def _say_what_is_loaded_whole(number: int, base: Path) -> None:
    files = [*base.glob("*.safetensors")] or [*base.glob("*.bin")]
    whole_bytes = sum(path.stat().st_size for path in files)
    if whole_bytes > WORTH_A_STARTING_MODEL:
        say(
            f"stage {number}: each worker loads the whole language expert, {whole_bytes / 1e9:.1f} GB, and makes the "
            "visual one of it, before it is partitioned; jobs/init_model.py makes a starting model of which each reads "
            "its own part"
        )


def _saved_step(run: StageRun) -> int:
    try:
        newest = newest_complete(run.checkpoints)
    except OutageError:  # no progress is known of
        return 0
    return newest.manifest.step if newest else 0


def _say_of(number: int, line: str) -> None:
    say(f"stage {number}: {line}")


def _attempt(
    run: StageRun,
    paths: RunPaths,
    known: Termination,
    budget: dict[str, float],
    scaling: ScalingConfig,
) -> None:
    """One attempt, with rows of its own in the ledger."""
    limits = limits_of(paths, run.stage_number, budget)
    with counted(paths, "train_stage", scaling.use_gpu, str(run.stage_number), limits) as ledger:
        board = actor_here(Board).remote(paths.recipe.name, run.stage_number, run.stage, run.output, ledger)
        say_what_is_short(scaling.num_cpus, scaling.num_gpus)
        with saying(board), following(board, known, scaling, paths.recipe.scaling.num_workers):
            run_stage(run, scaling, board)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
