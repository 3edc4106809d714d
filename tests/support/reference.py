"""A plain implementation of the model: both experts run on every position, then the position's own is selected."""

import torch
import torch.nn.functional as F

from pipeline.benchmarks.baselines import run_both_experts
from pipeline.config.vocabulary import Role
from pipeline.data.sequences import Sequence
from pipeline.model.layers import MarsDecoderLayer
from pipeline.model.mars import MarsForCausalLM
from pipeline.model.picture_positions import picture_positions

ROLES = list(Role)


def hidden_by_selection(mars: MarsForCausalLM, ids: torch.Tensor, groups: torch.Tensor | None = None) -> torch.Tensor:
    """Returns the final hidden states [B, T, D] of ids [B, T]; a position sees the groups [T] up to its own."""
    model, text_vocab_size = mars.model, mars.config.text_vocab_size
    is_visual = (ids >= text_vocab_size)[..., None]
    text = model.embed_tokens(ids.clamp(max=text_vocab_size - 1))
    opener = mars.config.vocabulary.opener(Role.BASE)
    visual = model.embed_visual(ids.clamp(min=text_vocab_size), picture_positions(ids, opener))
    hidden = torch.where(is_visual, visual, text)
    places = torch.arange(ids.shape[1])
    groups = places if groups is None else groups
    mask = (groups[None, :] <= groups[:, None])[None, None].expand(len(ids), 1, -1, -1)
    rotary = model.rotary_emb(hidden, places[None])
    for layer in model.layers:
        assert isinstance(layer, MarsDecoderLayer)
        hidden = run_both_experts(layer, hidden, is_visual, rotary, mask)
    normed: torch.Tensor = model.norm(hidden)
    return normed


def loss_by_definition(mars: MarsForCausalLM, sequence: Sequence, weights: list[float], joint: bool) -> torch.Tensor:
    """Returns the weighted loss of one sample alone, label by label from its logits."""
    vocabulary = mars.config.vocabulary
    groups = torch.from_numpy(sequence.groups)
    logits = mars.head(hidden_by_selection(mars, torch.from_numpy(sequence.ids)[None], groups))[0]
    text, codes = range(vocabulary.text_vocab_size), range(vocabulary.text_vocab_size, vocabulary.opener(ROLES[0]))
    total: torch.Tensor = logits.new_zeros(())
    for position, label, task in zip(sequence.label_positions, sequence.label_ids, sequence.label_tasks, strict=True):
        allowed = list(codes) if label in codes else [*text, *(vocabulary.opener(role) for role in ROLES)]
        if joint:
            allowed = list(range(vocabulary.size))
        place = torch.tensor([allowed.index(label)])
        total = total + weights[task] * F.cross_entropy(logits[position, allowed][None], place)
    return total
