"""The inputs of a stage's workers, checked before any worker starts."""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.checkpoints.manifest import Checkpoint
from pipeline.config.recipe import Recipe, sha256_of
from pipeline.config.sample_limits import longest_sample, seq_len_problem
from pipeline.config.stage import INSTRUCTIONS, StageConfig
from pipeline.data.row_index import SourceRows
from pipeline.data.row_index_cache import CachedRowIndex, cached_row_index
from pipeline.data.row_lengths import store_row_lengths
from pipeline.data.row_selection import RowSelection
from pipeline.data.token_reader import TokenReader
from pipeline.errors import InputError, UsageError
from pipeline.export.trained_weights import check_picture_positions_of
from pipeline.generation.pictures import HighResolution
from pipeline.launch.extension import ended_before
from pipeline.launch.row_lengths_job import read_lengths_on_cluster
from pipeline.runs.language_expert_check import base_config, check_base
from pipeline.runs.paths import RunPaths
from pipeline.runs.token_check import stage_fingerprint
from pipeline.training.samples import SamplePrompts
from pipeline.training.stage_run import StageRun
from pipeline.training.trackers import check_trackers
from tokenization.table.token_table import Fingerprint
from tokenization.text_tokenizer import check_fits, end_of_text_id, load_text_tokenizer, text_ids


@dataclass(frozen=True)
class StageInputs:
    """What a stage's workers get, and the row indices that are to be stored once nothing refuses the stage any more."""

    run: StageRun
    row_indices: tuple[CachedRowIndex, ...]

    def stored(self) -> StageRun:
        """Writes the row indices and the rows' lengths into the stage's folder, unless they are there. Returns what the
        workers get, with row indices that are mapped from their files."""
        mapped = {id(each.index): each.store() for each in self.row_indices}
        sources, held_out = (
            tuple(replace(source, index=mapped[id(source.index)]) for source in every)
            for every in (self.run.sources, self.run.held_out)
        )
        for source in sources:
            if source.lengths:
                store_row_lengths(source.lengths, source.tokens, source.index, read_lengths_on_cluster)
        return replace(self.run, sources=sources, held_out=held_out)


def stage_inputs(number: int, recipe: Recipe, paths: RunPaths, initial: Checkpoint | None) -> StageInputs:
    """Returns the checked inputs of the workers of stage `number`. Nothing is written into the stage's folder.

    Raises:
        InputError: tokens, language expert or the previous stage are missing or do not fit.
    """
    stage = recipe.stages[number - 1]
    check_trackers(recipe.trackers)
    base_config(paths)
    if initial:
        check_picture_positions_of(initial, recipe.picture_position_std)
    fingerprint = stage_fingerprint(recipe, paths, stage)
    num_high_codes = (fingerprint.num_codes_hr or 0) if stage.needs_high_codes else 0
    lengths = (fingerprint.num_codes, num_high_codes, fingerprint.max_caption_ids)
    if problem := seq_len_problem(stage, *lengths):
        raise UsageError(f"stage {number}: {problem}")
    row_indices, sources, held_out = _selected_rows(number, stage, paths)
    if stage.needs_high_codes:
        for rows in [*sources, *held_out]:
            check_high_resolution(number, stage, rows)
    check_base(paths, number, stage, fingerprint, longest_sample(*lengths))
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    check_fits(tokenizer, base_config(paths).vocab_size)
    ended_at = ended_before(paths, number)
    run = StageRun(
        stage=stage,
        stage_number=number,
        seed=recipe.seed,
        zero=recipe.zero,
        initial_model=paths.initial_model,
        codebook_size=fingerprint.codebook_size,
        model_options=recipe.model_options,
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
        recipe_sha256=resume_sha256(recipe, stage, fingerprint),
        loader_process=recipe.scaling.loader_process,
        async_validation=recipe.scaling.async_validation,
        extends_sha256=resume_sha256(recipe, replace(stage, steps=ended_at), fingerprint) if ended_at else "",
    )
    return StageInputs(run, tuple(row_indices))


def _selected_rows(
    number: int, stage: StageConfig, paths: RunPaths
) -> tuple[list[CachedRowIndex], list[SourceRows], list[SourceRows]]:
    """Returns the row indices, the rows of each source that the stage trains on, and the held-out ones."""
    cached, sources, held_out = [], [], []
    for name, source in stage.sources.items():
        tokens, sides, kept = paths.tokens_of(name), source.side_tables, paths.stage(number) / "rows"
        trained = RowSelection(tokens, source.where, sides, stage.seq_len, source.held_out)
        cached.append(cached_row_index(kept / f"{name}.arrow", trained))
        sources.append(SourceRows(name, tokens, cached[-1].index, source.weight, kept / f"{name}.lengths.arrow"))
        if source.held_out:
            validated = RowSelection(tokens, source.held_out, sides, stage.seq_len)
            cached.append(cached_row_index(kept / f"{name}.held_out.arrow", validated))
            held_out.append(SourceRows(name, tokens, cached[-1].index))
    return cached, sources, held_out


def resume_sha256(recipe: Recipe, stage: StageConfig, fingerprint: Fingerprint) -> str:
    """Hashes everything that must be equal for a stage to resume from a checkpoint."""
    model = recipe.model_options
    return sha256_of(
        stage.resume_settings(),
        recipe.seed,
        model.shared_output_projection,
        model.embedding_noise_std,
        *([model.picture_position_std] if model.picture_position_std else []),  # 0 is left out: older runs can resume
        *(["visual_query_key_norm"] if model.visual_query_key_norm else []),
        recipe.zero.zero_stage,
        recipe.zero.dtype,
        fingerprint,
    )


def sample_prompts(stage: StageConfig, recipe: Recipe, paths: RunPaths, fingerprint: Fingerprint) -> SamplePrompts:
    """Returns the sample pictures to draw while the stage trains.

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
    high = HighResolution.of_stage(stage, fingerprint.num_codes_hr)
    return SamplePrompts(ids, fingerprint.num_codes, high, paths.vqgan)


def check_high_resolution(number: int, stage: StageConfig, source: SourceRows) -> None:
    """Checks the first selected row of a source, before any worker starts."""
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
