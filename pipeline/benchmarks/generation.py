"""Measures how fast pictures are drawn on one device, compared with other methods in the same run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessor

from pipeline.architecture.geometries import GEOMETRIES, with_layers
from pipeline.architecture.mars_config import MarsConfig
from pipeline.benchmarks.step import device_name
from pipeline.config.benchmarks import GenerateSettings
from pipeline.config.vocabulary import JointVocabulary, Role, State
from pipeline.generation.pictures import HighResolution, PictureGenerator
from pipeline.generation.sampling import GREEDY
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.terminal import say

CHECKED_LAYERS, CHECKED_CODES = 2, 16
"""Size of the comparison in float32 before a run in another dtype, whose rounding makes equal sequences diverge."""


@dataclass(frozen=True)
class GenerationBenchmark:
    """Settings of the benchmark.

    Attributes:
        config: config of the model, which has random weights.
        batch_size: pictures drawn at once, without guidance.
        text_ids, num_codes: ids of a prompt and codes of a picture; a high-resolution picture has the same number of
            codes.
        group_size: K of next-K-token prediction, compared with 1.
        rounds: measured rounds, in each of which every variant draws a batch; one warmup round precedes them.
        dtype: dtype of weights and cache.
    """

    config: MarsConfig
    batch_size: int = 4
    text_ids: int = 77
    num_codes: int = 256
    group_size: int = 4
    rounds: int = 3
    dtype: torch.dtype = torch.float32


def benchmark_generation(settings: GenerateSettings) -> dict[str, Any]:
    """Times the generation of pictures on this device, with automatic choices for the settings left open."""
    on_gpu = torch.cuda.is_available()
    geometry = settings.geometry if settings.geometry != "auto" else "qwen_7b" if on_gpu else "small"
    config = GEOMETRIES[geometry]
    dtype = settings.dtype if settings.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    benchmark = GenerationBenchmark(
        config=with_layers(config, settings.layers) if settings.layers else config,
        batch_size=settings.batch_size or (16 if on_gpu else 1),
        num_codes=settings.num_codes,
        group_size=settings.group_size,
        rounds=settings.rounds,
        dtype=getattr(torch, dtype),
    )
    device = torch.device("cuda" if on_gpu else "cpu")
    say(
        f"benchmark: {geometry}, {benchmark.config.num_hidden_layers} layers, {benchmark.batch_size} pictures, {device}"
    )
    figures = measure_generation(benchmark, device, say)
    return {"geometry": f"{geometry}, {benchmark.config.num_hidden_layers} layers"} | figures


def measure_generation(
    benchmark: GenerationBenchmark, device: torch.device, log: Callable[[str], None]
) -> dict[str, Any]:
    """Times the drawing of the same pictures with the static cache, without a cache, and with transformers' `generate`
    and its own cache. Also times high-resolution codes drawn K at once and one by one, after a base picture in the
    cache.

    All use greedy decoding. The codes of the first three must be equal: in float32 this is checked in every round,
    otherwise once before, on a model of two layers in float32. Ratios are medians over the rounds of the two times in a
    round.
    """
    if benchmark.dtype != torch.float32:
        config = with_layers(benchmark.config, min(CHECKED_LAYERS, benchmark.config.num_hidden_layers))
        check = replace(benchmark, config=config, dtype=torch.float32, num_codes=CHECKED_CODES)
        _assert_alike({name: run()[1] for name, run in variants(check, device).items()})
    runs = variants(benchmark, device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(benchmark.rounds + 1):
        codes = {}
        for name, run in runs.items():
            if number or name != "uncached":  # by far the slowest, and it has nothing to warm up
                seconds, codes[name] = run()
                times[name].append(seconds)
        if benchmark.dtype == torch.float32:
            _assert_alike(codes)
        label = f"round {number}/{benchmark.rounds}" if number else "warm-up"
        log(f"{label}: " + "  ".join(f"{name} {times[name][-1]:.2f} s" for name in codes))
    counted = {name: seconds[-benchmark.rounds :] for name, seconds in times.items()}

    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(counted[above], counted[below], strict=True))

    return {
        "device": device_name(device),
        "dtype": str(benchmark.dtype).removeprefix("torch."),
        "batch_size": benchmark.batch_size,
        "num_codes": benchmark.num_codes,
        "rounds": benchmark.rounds,
        "images_per_s": benchmark.batch_size / statistics.median(counted["cached"]),
        "cached_over_uncached": ratio("uncached", "cached"),
        "next_k": benchmark.group_size,
        "next_k_speedup": ratio("one_by_one", "next_k"),
        "over_hf_generate": ratio("hf_generate", "cached"),
        "seconds": {name: statistics.median(seconds) for name, seconds in counted.items()},
    }


Run = Callable[[], tuple[float, np.ndarray]]
"""Draws a batch. Returns the seconds it took, and the codes [B, N]."""


def variants(benchmark: GenerationBenchmark, device: torch.device) -> dict[str, Run]:
    """Returns the methods of generation by name, all with one model of random weights."""
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(benchmark.config, dtype=benchmark.dtype).eval()
    generator = np.random.default_rng(0)
    shape = (benchmark.batch_size, benchmark.text_ids)
    prompts = generator.integers(0, benchmark.config.text_vocab_size, shape).tolist()
    base = generator.integers(0, benchmark.config.codebook_size, (benchmark.batch_size, benchmark.num_codes))
    seeds = [0] * benchmark.batch_size

    def generator_of(group_size: int) -> PictureGenerator:
        high = HighResolution(Role.HIGH_1, group_size, benchmark.num_codes) if group_size else None
        compiled = device.type == "cuda"
        return PictureGenerator(model, *shape, benchmark.num_codes, GREEDY, high, compile_steps=compiled)

    cached, by_group = generator_of(0), {size: generator_of(size) for size in (1, benchmark.group_size)}

    def high_codes(group_size: int) -> Run:
        def run() -> tuple[float, np.ndarray]:
            by_group[group_size].read(prompts, base, seeds)
            return _timed(by_group[group_size].generate_high, device)

        return run

    return {
        "cached": lambda: _timed(lambda: cached.draw(prompts, seeds).codes, device),
        "hf_generate": lambda: _timed(lambda: _hf_generate(model, prompts, benchmark.num_codes), device),
        "one_by_one": high_codes(1),
        "next_k": high_codes(benchmark.group_size),
        "uncached": lambda: _timed(lambda: _uncached(model, prompts, benchmark.num_codes), device),
    }


@torch.no_grad()
def _uncached(model: MarsForCausalLM, prompts: list[list[int]], num_codes: int) -> np.ndarray:
    """Recomputes the whole sequence for every code. The head over codes runs on the last position."""
    vocabulary = model.config.vocabulary
    ids = _contexts(model, prompts)
    for _ in range(num_codes):
        hidden = model.model(ids).last_hidden_state[:, -1]
        codes = model.head(hidden, State.CODES).argmax(-1, keepdim=True)
        ids = torch.cat([ids, codes + vocabulary.code_offset], dim=1)
    drawn: np.ndarray = (ids[:, -num_codes:] - vocabulary.code_offset).cpu().numpy()
    return drawn


class _OnlyCodes(LogitsProcessor):
    """Restricts `generate` to the ids that a picture allows."""

    def __init__(self, vocabulary: JointVocabulary) -> None:
        self._codes = slice(vocabulary.code_offset, vocabulary.code_offset + vocabulary.codebook_size)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        kept = torch.full_like(scores, float("-inf"))
        kept[:, self._codes] = scores[:, self._codes]
        return kept


def _hf_generate(model: MarsForCausalLM, prompts: list[list[int]], num_codes: int) -> np.ndarray:
    """Runs transformers' `generate` with its default cache."""
    vocabulary, ids = model.config.vocabulary, _contexts(model, prompts)
    settings = GenerationConfig(max_new_tokens=num_codes, do_sample=False, pad_token_id=0)
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), generation_config=settings, logits_processor=[_OnlyCodes(vocabulary)]
    )
    drawn: np.ndarray = (made[:, -num_codes:] - vocabulary.code_offset).cpu().numpy()
    return drawn


def _contexts(model: MarsForCausalLM, prompts: list[list[int]]) -> Tensor:
    """Returns prompts of one length followed by the opener, joint ids [B, T]."""
    opener = model.config.vocabulary.opener(Role.BASE)
    return torch.tensor([[*prompt, opener] for prompt in prompts], device=model.device)


def _timed(run: Callable[[], np.ndarray], device: torch.device) -> tuple[float, np.ndarray]:
    """Times a method. Copying the codes to the host waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    codes = run()
    return time.perf_counter() - started, codes


def _assert_alike(codes: dict[str, np.ndarray]) -> None:
    """Checks that the methods draw the same codes.

    Pictures drawn K codes at once differ from those drawn one by one, by definition. The tests compare those of each K
    with training's own pass.
    """
    for name in {"uncached", "hf_generate"} & codes.keys():
        assert np.array_equal(codes[name], codes["cached"]), f"{name} draws other codes than the static cache"
