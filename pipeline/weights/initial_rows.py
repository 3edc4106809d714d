"""Initial rows of codes and borders: the mean of the words' rows, plus a little noise that makes them distinct."""

from collections.abc import Iterable

import torch
from torch import Tensor

NUM_QWEN_IDS = 151_851
"""Number of ids that Qwen's tokenizer uses; the later rows of the table are padding."""


def num_words(text_vocab_size: int) -> int:
    """Rows of a text table that are not padding: up to the last one that Qwen's tokenizer uses."""
    return min(NUM_QWEN_IDS, text_vocab_size)


def mean_row(pieces: Iterable[Tensor], rows: int, columns: int) -> Tensor:
    """The mean of the first `rows` rows of a table whose flattened elements come in `pieces`: float32 [columns].

    Sums are float64, so that the mean does not depend on the sizes of the pieces.
    """
    total, left, rest = torch.zeros(columns, dtype=torch.float64), rows * columns, torch.empty(0)
    for piece in pieces:
        if left <= 0:
            break
        flat = torch.cat([rest, piece[:left].float()])
        left -= min(left, piece.numel())
        whole = flat.numel() // columns * columns
        total += flat[:whole].view(-1, columns).sum(0, dtype=torch.float64)
        rest = flat[whole:]
    assert left == 0 and not rest.numel()
    return (total / rows).float()


def embedding_start(mean: Tensor, rows: int, noise_std: float) -> Tensor:
    """The initial visual embedding: float32 [rows, D], `mean` [D] plus noise from a fixed seed."""
    noise = torch.randn((rows, mean.numel()), generator=torch.Generator().manual_seed(0))
    return mean.expand(rows, -1) + noise_std * noise


def head_start(mean: Tensor, rows: int) -> Tensor:
    """The initial visual head: float32 [rows, D]."""
    return mean.expand(rows, -1)
