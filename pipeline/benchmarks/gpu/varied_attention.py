"""torch's `varlen_attn` on the samples of a packed batch, to compare with FlexAttention. Training does not use it.

It needs neither a mask nor a compiler, but each sample's keys in one piece, and K = 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.benchmarks.gpu.bench import GpuBench
from pipeline.data.collate import MicroBatch


def visible_lengths(batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Positions of each sample in a batch whose text comes first: of its picture, and of text and picture together."""
    samples = int(batch.visual.places.samples.max()) + 1
    visual = _lengths(batch.visual.places.samples, samples)
    return visual, visual + _lengths(batch.text.places.samples, samples)


def _lengths(sample_of: Tensor, samples: int) -> Tensor:
    """Positions of each of `samples` samples of each row, int64 [rows * samples]; 0 for those that a row lacks."""
    numbers = torch.arange(samples, device=sample_of.device)
    return (sample_of[:, :, None] == numbers).sum(1).flatten()


def varied_attention(bench: GpuBench, query_lengths: Tensor, key_lengths: Tensor) -> Callable[[], None]:
    """Forward and backward pass of causal attention in samples of the given lengths, aligned at their ends."""
    from torch.nn.attention.varlen import varlen_attn

    config = bench.config
    head_dim = config.hidden_size // config.num_attention_heads

    def random(heads: int, lengths: Tensor) -> Tensor:
        shape = (int(lengths.sum()), heads, head_dim)
        return torch.randn(shape, device=bench.device, dtype=bench.dtype, requires_grad=True)

    queries = random(config.num_attention_heads, query_lengths)
    keys, values = (random(config.num_key_value_heads, key_lengths) for _ in range(2))
    query_starts, key_starts = (pad(each.cumsum(0), (1, 0)).int() for each in (query_lengths, key_lengths))
    longest_query, longest_key = int(query_lengths.max()), int(key_lengths.max())

    def run() -> None:
        attended = varlen_attn(
            queries,
            keys,
            values,
            query_starts,
            key_starts,
            longest_query,
            longest_key,
            window_size=(-1, 0),
            enable_gqa=config.num_key_value_heads != config.num_attention_heads,
        )
        assert isinstance(attended, Tensor)
        torch.autograd.grad(attended, (queries, keys, values), torch.ones_like(attended))

    return run
