"""Draws a run's pictures on this machine's CPU by speculative decoding and plainly, in turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.benchmarks.step import device_name
from pipeline.config.benchmarks import SpeculateSettings
from pipeline.config.recipe import Recipe
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.data.token_reader import TokenReader
from pipeline.errors import UsageError
from pipeline.export.export import load_export
from pipeline.generation.pictures import HighResolution, PictureGenerator
from pipeline.generation.sampling import Sampling
from pipeline.generation.speculative import speculation_of
from pipeline.runs.paths import RunPaths
from pipeline.runtime.terminal import say
from pipeline.serving.model_source import model_source
from tokenization.dtypes import fast_dtype

PLAIN = 0
MakeGenerator = Callable[[int, HighResolution | None], PictureGenerator]
"""Makes a generator with a number of drafts, for base pictures alone or for both resolutions."""


@dataclass
class Drawn:
    """What was drawn with one number of drafts, in the rounds that count.

    Attributes:
        seconds: of each round.
        codes: of each round's pictures, [B, N] or [B, N + M].
        passes: of all rounds together.
    """

    seconds: list[float] = field(default_factory=list)
    codes: list[np.ndarray] = field(default_factory=list)
    passes: int = 0


def benchmark_speculation(settings: SpeculateSettings, recipe: Recipe, paths: RunPaths) -> dict[str, Any]:
    """Times the same pictures with every number of drafts, from captions that the run was trained on.

    Returns:
        `images_per_s` of plain decoding; by the number of drafts, `speedup` of whole pictures and `base_speedup` of
        base pictures alone, medians over the rounds, and `codes_a_pass` and `same_pictures` of whole pictures: the
        share of them that have all codes of plain decoding.

    Raises:
        UsageError: the temperature is impossible.
    """
    served = model_source("", paths)()
    dtype = fast_dtype("cpu")
    model = load_export(Path(served.export), dtype)
    temperature = served.temperature if settings.temperature is None else settings.temperature
    sampling = Sampling(temperature, served.top_k, 1.0, served.guidance_scale)
    if problems := sampling.problems():
        raise UsageError("; ".join(problems))

    def make(num_drafts: int, high: HighResolution | None) -> PictureGenerator:
        speculation = speculation_of(paths.tokens, num_drafts, high is not None)
        lengths = (settings.batch_size, served.max_prompt_ids, served.num_codes)
        return PictureGenerator(model, *lengths, sampling, high, as_served=True, speculation=speculation)

    captions = _captions(recipe, paths, settings.batch_size * (1 + settings.rounds))
    prompts = [ids[: served.max_prompt_ids] for ids in captions]
    base = _draw(settings, make, None, prompts)
    whole = _draw(settings, make, served.high, prompts) if served.high else base
    plain = whole[PLAIN]
    return {
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "temperature": temperature,
        "batch_size": settings.batch_size,
        "pictures": settings.batch_size * settings.rounds,
        "images_per_s": settings.batch_size / statistics.median(plain.seconds),
        "base_speedup": {number: _speedup(base[PLAIN], each) for number, each in base.items()},
        "speedup": {number: _speedup(plain, each) for number, each in whole.items()},
        "codes_a_pass": {number: np.stack(each.codes)[:, 0].size / each.passes for number, each in whole.items()},
        "same_pictures": {number: _same_pictures(plain, each) for number, each in whole.items()},
    }


def _captions(recipe: Recipe, paths: RunPaths, count: int) -> list[list[int]]:
    """Text ids of captions that the last stage trains on, of rows at equal distances, in their languages in turn; none
    for a row without a caption."""
    source = recipe.stages[-1].sources[recipe.first_corpus]
    index = build_row_index(RowSelection(paths.tokens, source.where, source.side_tables, held_out=source.held_out))
    reader, ends = TokenReader(paths.tokens, index, held_shards=1), np.cumsum(index.counts)
    found = []
    for number, place in enumerate(np.linspace(0, ends[-1] - 1, count).astype(np.int64).tolist()):
        shard = int(np.searchsorted(ends, place, side="right"))
        captions = reader.row(shard, place - int(ends[shard] - index.counts[shard])).captions
        found.append(captions[number % len(captions)].ids if captions else [])
    return found


def _draw(
    settings: SpeculateSettings, make: MakeGenerator, high: HighResolution | None, prompts: list[list[int]]
) -> dict[int, Drawn]:
    """Draws every round's pictures with every number of drafts, `PLAIN` first."""
    generators = {number: make(number, high) for number in (PLAIN, *settings.num_drafts)}
    drawn = {number: Drawn() for number in generators}
    for turn in range(1 + settings.rounds):
        numbers = range(turn * settings.batch_size, (turn + 1) * settings.batch_size)
        for number, generator in generators.items():
            began = time.perf_counter()
            made = generator.draw([prompts[each] for each in numbers], list(numbers))
            seconds = time.perf_counter() - began
            if turn:
                of = drawn[number]
                of.seconds.append(seconds)
                of.codes.append(made.codes if made.high_codes is None else np.hstack([made.codes, made.high_codes]))
                of.passes += generator.num_passes
        shown = "  ".join(f"{number or 'plain'} {each.seconds[-1]:.3f} s" for number, each in drawn.items() if turn)
        say(f"benchmark: {'whole' if high else 'base'} pictures, round {turn}/{settings.rounds}: {shown or 'warm-up'}")
    return drawn


def _speedup(plain: Drawn, drawn: Drawn) -> float:
    return statistics.median(slow / fast for slow, fast in zip(plain.seconds, drawn.seconds, strict=True))


def _same_pictures(plain: Drawn, drawn: Drawn) -> float:
    return float(np.mean(np.all(np.stack(plain.codes) == np.stack(drawn.codes), axis=-1)))
