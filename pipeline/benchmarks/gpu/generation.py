"""Drawing pictures with the static cache: milliseconds a code, and whether CUDA graphs are recorded and exact."""

from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from pipeline.benchmarks.gpu.bench import GpuBench
from pipeline.benchmarks.gpu.parts import CUDA_ONLY
from pipeline.benchmarks.gpu.recorder import Recorder
from pipeline.generation.pictures import PictureGenerator
from pipeline.generation.sampling import GREEDY, Sampling
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.torch_private import cuda_graph_skips

BATCH_SIZE, NUM_CODES = 16, 64
SMALL_BATCH_SIZE, SMALL_NUM_CODES = 2, 8
CHECKED_LAYERS, CHECKED_CODES = 2, 8
ROUNDS = 3
GUIDED = replace(GREEDY, guidance_scale=4.0)


def measure(bench: GpuBench, record: Recorder) -> None:
    """Records the drawing of a batch, plain and guided, and on two layers the same codes with and without graphs."""
    batch_size, num_codes = (BATCH_SIZE, NUM_CODES) if bench.on_gpu else (SMALL_BATCH_SIZE, SMALL_NUM_CODES)
    record.figures(batch_size=batch_size, num_codes=num_codes, cuda_graph_skips=CUDA_ONLY, same_codes=CUDA_ONLY)
    model = bench.model(replace(bench.stage, compile_layers=False, attention="sdpa")).eval()
    for name, sampling in (("plain", GREEDY), ("guided", GUIDED)):
        with record.piece(name):
            draw = _drawing(bench, model, batch_size, num_codes, sampling, compiled=bench.on_gpu)
            seconds = median(bench.seconds(draw, ROUNDS))
            record.figures(
                **{
                    f"{name}_ms_a_code": 1e3 * seconds / num_codes,
                    f"{name}_codes_per_s": batch_size * num_codes / seconds,
                }
            )
    if not bench.on_gpu:
        return
    record.figures(cuda_graph_skips=cuda_graph_skips())
    with record.piece("same codes"):
        shallow = replace(bench.stage, compile_layers=False, attention="sdpa")
        few = bench.model(shallow, CHECKED_LAYERS, torch.float32).eval()
        eager, graphs = (
            _drawing(bench, few, batch_size, CHECKED_CODES, GREEDY, compiled)() for compiled in (False, True)
        )
        record.figures(same_codes=bool(np.array_equal(eager, graphs)))


def _drawing(
    bench: GpuBench, model: MarsForCausalLM, batch_size: int, num_codes: int, sampling: Sampling, compiled: bool
) -> Callable[[], np.ndarray]:
    random = np.random.default_rng(0)
    length = bench.lengths.mean_caption_ids
    prompts = random.integers(0, bench.config.text_vocab_size, (batch_size, length)).tolist()
    generator = PictureGenerator(
        model, batch_size, length, num_codes, sampling, many_steps=not bench.on_gpu, compile_steps=compiled
    )

    def draw() -> np.ndarray:
        with torch.no_grad():
            return generator.draw(prompts, [0] * batch_size).codes

    return draw
