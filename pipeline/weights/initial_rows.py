"""How the rows of codes and borders begin: at the mean of the words, with a little noise that tells them apart."""

from collections.abc import Iterable

import torch
from torch import Tensor

NUM_QWEN_IDS = 151_851
"""Ids that Qwen's tokenizer uses; the rows from there to the table's end are padding."""


def num_words(text_vocab_size: int) -> int:
    """Rows of a text table that stand for something: up to the last one that Qwen's tokenizer uses."""
    return min(NUM_QWEN_IDS, text_vocab_size)


def mean_row(pieces: Iterable[Tensor], rows: int, columns: int) -> Tensor:
    """The mean of the first `rows` rows of a table whose flattened elements come in `pieces`: float32 [columns].

    Sums are float64, so that the mean does not depend on how the table was cut.
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
    """The visual embedding that training starts from: float32 [rows, D], `mean` [D] with always the same noise."""
    noise = torch.randn((rows, mean.numel()), generator=torch.Generator().manual_seed(0))
    return mean.expand(rows, -1) + noise_std * noise


def head_start(mean: Tensor, rows: int) -> Tensor:
    """The visual head that training starts from: float32 [rows, D]."""
    return mean.expand(rows, -1)
