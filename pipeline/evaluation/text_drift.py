"""Measures how training changes text logits and perplexity against the language expert's, on unseen text.

Shape letters: T ids of a text, V text rows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.row_selection import RowSelection, build_row_index
from tokenization.files.storage import open_storage
from tokenization.table.token_table import TokenShard

TextLogits = Callable[[Tensor], Tensor]
"""A model on text alone: maps int64 [1, T] to logits over the text vocabulary, [1, T, V]."""


@dataclass(frozen=True)
class Drift:
    """Text output of a model compared with its language expert's, over all positions of some texts.

    Attributes:
        mean_kl: mean KL(language expert || model) of the next-id distributions, nats.
        max_abs_diff: largest absolute difference of a logit.
        perplexity, base_perplexity: exp of the mean cross-entropy of the next id.
    """

    mean_kl: float
    max_abs_diff: float
    perplexity: float
    base_perplexity: float


@torch.no_grad()
def text_drift(model: TextLogits, language_expert: TextLogits, texts: list[list[int]], end_id: int) -> Drift:
    """Measures texts one by one, each between two `end_id`, so that both models run the same shapes.

    Probabilities are over the text vocabulary alone.
    """
    kl, loss, base_loss, worst, count = 0.0, 0.0, 0.0, 0.0, 0
    for ids in texts:
        line = torch.tensor([[end_id, *ids, end_id]])
        own, reference = (logits(line)[0, :-1].float() for logits in (model, language_expert))
        own_log, reference_log = own.log_softmax(-1), reference.log_softmax(-1)
        kl += F.kl_div(own_log, reference_log, reduction="sum", log_target=True).item()
        loss += F.nll_loss(own_log, line[0, 1:], reduction="sum").item()
        base_loss += F.nll_loss(reference_log, line[0, 1:], reduction="sum").item()
        worst = max(worst, (own - reference).abs().max().item())
        count += len(own)
    return Drift(kl / count, worst, math.exp(loss / count), math.exp(base_loss / count))


def held_out_texts(trained: list[RowSelection], count: int, read: RowSelection | None = None) -> list[list[int]]:
    """Returns the ids of up to `count` captions that no stage trained on, drawn from the whole token folder.

    Args:
        trained: all training data of the stages, rows of one token folder.
        count: maximum number of captions; there may be fewer, or none if everything was trained on.
        read: the language expert's training data: other captions are taken only if it was trained on each of their ids.
            None for an expert that was trained on more than this corpus.
    """
    indices = [build_row_index(selection) for selection in trained]
    known = None if read is None else _ids_of(read)
    shards, storage, generator = indices[0].shards, open_storage(trained[0].tokens), np.random.default_rng(0)
    found: list[list[int]] = []
    for number, shard in enumerate(shards):
        wanted = -(-(count - len(found)) // (len(shards) - number))
        if wanted <= 0:
            break
        used = np.concatenate([index.rows(number) for index in indices])
        free = np.setdiff1d(np.arange(TokenShard(storage, shard).num_rows), used)
        lines = [
            ids
            for ids in _captions(TokenShard(storage, shard), free)
            if ids and (known is None or known.issuperset(ids))
        ]
        found += [lines[index] for index in sorted(generator.permutation(len(lines))[:wanted])]
    return found


def _ids_of(selection: RowSelection) -> set[int]:
    index = build_row_index(selection)
    storage = open_storage(selection.tokens)
    captions = (_captions(TokenShard(storage, shard), index.rows(number)) for number, shard in enumerate(index.shards))
    return {one for lines in captions for ids in lines for one in ids}


def _captions(shard: TokenShard, rows: np.ndarray) -> list[list[int]]:
    table = shard.read(["captions"]).take(pa.array(rows, pa.int64()))
    return [caption["ids"] for row in table["captions"].to_pylist() for caption in row]
