"""Measures a training step on one device, compared with other implementations of it, in one run."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from pipeline.architecture.mars_config import MarsConfig
from pipeline.benchmarks.baselines import BothExperts, Dense, PrefixWithGradient
from pipeline.config.gpus import peak_flop_per_s
from pipeline.config.tasks import Kind, Task
from pipeline.data.collate import MicroBatch, collate
from pipeline.data.sequences import SequenceBuilder
from pipeline.model.mars import MarsForCausalLM
from pipeline.planning.flops import flop_of
from pipeline.runtime.torch_private import fail_on_too_many_graphs
from pipeline.runtime.transformers_private import attention_of
from pipeline.training.objective import Objective

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Maximum difference of hidden states that count as equal, as a share of their norm, by dtype."""
RATIOS = {
    "routed_over_dense": ("routed", "dense"),
    "naive_over_routed": ("naive", "routed"),
    "prefix_speedup": ("prefix_with_gradient", "routed"),
    "joint_over_state_normalisation": ("joint", "routed"),
}
"""Ratios of two objectives' times, by name."""


@dataclass(frozen=True)
class StepBenchmark:
    """Settings of the benchmark.

    Attributes:
        config: config of the model, which has random weights.
        rows, samples_per_row: size of the text-to-image micro-batch.
        row_multiple: the rows' streams are padded to a multiple of this number of positions.
        text_ids, num_codes: text ids and codes of each sample.
        rounds: measured alternating rounds, after `warmup` unmeasured ones.
        dtype: dtype of weights and computation.
        attention, compile_layers: see `StageConfig`; the baselines' layers are compiled as well.
        compared: the baselines to time.
    """

    config: MarsConfig
    rows: int
    samples_per_row: int
    row_multiple: int = 1
    text_ids: int = 77
    num_codes: int = 256
    rounds: int = 9
    warmup: int = 2
    dtype: torch.dtype = torch.float32
    attention: str = "eager"
    compile_layers: bool = False
    compared: tuple[str, ...] = ("dense", "naive", "prefix_with_gradient", "joint")


def measure_step(benchmark: StepBenchmark, device: torch.device, log: Callable[[str], None]) -> dict[str, Any]:
    """Times a step of SemVIE and of its baselines: forward, backward, AdamW.

    All share one model and one optimizer, and alternate. Returns the benchmark's figures; ratios are medians over the
    rounds of the two times in a round.
    """
    model = random_model(benchmark, device)
    batch = text_to_image_batch(benchmark).to(device)
    makers: dict[str, Callable[[], Objective]] = {
        "dense": lambda: Dense(model, benchmark.compile_layers),
        "naive": lambda: BothExperts(model, benchmark.compile_layers),
        "prefix_with_gradient": lambda: PrefixWithGradient(model),
        "joint": lambda: Objective(model, "joint"),
    }
    objectives = {"routed": Objective(model)} | {name: makers[name]() for name in benchmark.compared}
    assert_equal_outputs(objectives, batch, CLOSE[benchmark.dtype])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step(name: str) -> float:
        _synchronise(device)
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        objectives[name]([batch]).loss.backward()
        optimizer.step()
        _synchronise(device)
        return time.perf_counter() - started

    for _ in range(benchmark.warmup):
        step("routed")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step("routed")
    peak_bytes = _peak_memory_bytes(device)
    for name in objectives:
        for _ in range(benchmark.warmup):
            step(name)
    times: dict[str, list[float]] = {name: [] for name in objectives}
    for number in range(benchmark.rounds):
        for name in objectives:
            times[name].append(step(name))
        log(
            f"round {number + 1}/{benchmark.rounds}: " + "  ".join(f"{name} {t[-1]:.3f} s" for name, t in times.items())
        )

    return _figures(benchmark, batch, times, peak_bytes, device)


def _figures(
    benchmark: StepBenchmark,
    batch: MicroBatch,
    times: dict[str, list[float]],
    peak_bytes: int,
    device: torch.device,
) -> dict[str, Any]:
    """Computes the benchmark's figures from the seconds of every step, by objective name."""

    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))

    step_s = statistics.median(times["routed"])
    flop = flop_of(batch, benchmark.config).total
    peak = peak_flop_per_s(device_name(device))
    return {
        "device": device_name(device),
        "dtype": str(benchmark.dtype).removeprefix("torch."),
        "attention": benchmark.attention,
        "tokens_per_s": batch.work.tokens / step_s,
        "samples_per_s": benchmark.rows * benchmark.samples_per_row / step_s,
        "mfu": flop / step_s / peak if peak else None,
        "step_s": step_s,
        "flop_per_step": flop,
        "peak_memory_bytes": peak_bytes,
        "padding_fraction": 1 - batch.work.tokens / batch.work.padded_tokens,
        **{name: ratio(above, below) for name, (above, below) in RATIOS.items() if {above, below} <= times.keys()},
    }


def random_model(benchmark: StepBenchmark, device: torch.device) -> MarsForCausalLM:
    """Returns a model with random weights; its visual expert copies the language expert, as at training's start."""
    torch.manual_seed(0)
    with device:
        model: MarsForCausalLM = AutoModelForCausalLM.from_config(benchmark.config, dtype=benchmark.dtype)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if ".visual_expert." in name:
                parameter.copy_(parameters[name.replace(".visual_expert.", ".text_expert.")])
    model.set_attn_implementation(benchmark.attention)
    assert attention_of(model) == benchmark.attention
    if benchmark.compile_layers:
        fail_on_too_many_graphs()  # beyond torch's own limit, FlexAttention would run unfused without a word
        model.model.compile_layers()
    model.freeze_language_expert().train()
    return model


def text_to_image_batch(benchmark: StepBenchmark) -> MicroBatch:
    """Returns a micro-batch of random captions and codes."""
    generator = np.random.default_rng(0)
    config = benchmark.config
    builder = SequenceBuilder(config.vocabulary, {}, 0)

    def sample() -> Any:
        caption = generator.integers(0, config.text_vocab_size, benchmark.text_ids).tolist()
        return builder.text_to_image(caption, generator.integers(0, config.codebook_size, benchmark.num_codes))

    rows = [[sample() for _ in range(benchmark.samples_per_row)] for _ in range(benchmark.rows)]
    weights = [1 / (len(rows) * benchmark.samples_per_row * benchmark.num_codes)] * len(Task)
    return collate(Kind.TEXT_TO_IMAGE, rows, config.vocabulary, weights, benchmark.row_multiple)


@torch.no_grad()
def assert_equal_outputs(objectives: dict[str, Objective], batch: MicroBatch, close: float) -> None:
    """Checks that all objectives compute the same hidden states at the labels while the visual expert is a copy."""

    def hidden(objective: Objective) -> torch.Tensor:
        states = torch.cat(objective.hidden_states([batch])[0], dim=1).flatten(0, 1)
        return states[batch.code_labels.index].float()

    routed = hidden(objectives["routed"])
    for name, objective in objectives.items():
        difference = ((hidden(objective) - routed).norm() / routed.norm()).item()
        assert difference <= close, f"{name} differs by {difference:.1e} of the norm"


def device_name(device: torch.device) -> str:
    """Returns the name of a GPU, or for a CPU `CPU` with the number of threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory_bytes(device: torch.device) -> int:
    """Returns the peak memory of tensors on a GPU, or of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
