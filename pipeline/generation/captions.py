"""Generates captions from pictures, and says how likely given ones are.

Shape letters: B captions, L ids of the longest one, D hidden size.
"""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config.vocabulary import State
from pipeline.generation.decoder import Decoder
from pipeline.generation.sampling import GREEDY, Sampling, choose, uniform_numbers
from pipeline.model.mars import MarsForCausalLM


@torch.no_grad()
def generate_captions(
    model: MarsForCausalLM,
    prompts: list[np.ndarray],
    end_id: int,
    max_new_ids: int,
    sampling: Sampling = GREEDY,
    seeds: list[int] | None = None,
    text_len: int = 0,
) -> list[list[int]]:
    """Generates the text after each prompt, up to `end_id`, an opener, or `max_new_ids`.

    Args:
        model: the model.
        prompts: joint ids as made by `SequenceBuilder.caption_prompt`: text, then a picture, all pictures of one size.
        end_id: the id that ends a caption.
        max_new_ids: maximum ids of a caption.
        sampling: sampling of text ids, greedy by default; guidance does not apply.
        seeds: one seed per row; None uses the sampling's seed for all rows.
        text_len: the text of a prompt is padded to this many ids; 0: to the longest of the batch.
    """
    text_vocab_size, device = model.config.text_vocab_size, model.head.visual_weight.device
    uniform = uniform_numbers([sampling.seed] * len(prompts) if seeds is None else seeds, max_new_ids, device)
    read = _read(model, prompts, max_new_ids, text_len)
    decoder, hidden, next_position, num_seen = read.decoder, read.hidden, read.next_position, read.num_seen

    captions: list[list[int]] = [[] for _ in prompts]
    open_rows = np.ones(len(prompts), bool)
    for number in range(max_new_ids):
        chosen = choose(decoder.logits(hidden, State.TEXT), sampling, uniform[:, number])
        ids_B = chosen.cpu().numpy()
        open_rows &= (ids_B != end_id) & (ids_B < text_vocab_size)
        if not open_rows.any():
            break
        for row in np.nonzero(open_rows)[0]:
            captions[row].append(int(ids_B[row]))
        fed = torch.where(torch.from_numpy(open_rows).to(device), chosen, end_id)
        hidden = decoder.text(fed[:, None], next_position[:, None], num_seen + number + 1)[:, -1]
        next_position = next_position + 1
    return captions


@torch.no_grad()
def caption_log_likelihoods(
    model: MarsForCausalLM, prompts: list[np.ndarray], captions: list[list[int]], end_id: int, text_len: int = 0
) -> np.ndarray:
    """log p(caption, then `end_id` | prompt) in the state of text, nats, float64 [B].

    Args:
        model: the model.
        prompts: see `generate_captions`.
        captions: text ids of the caption of each prompt; may be empty.
        end_id: the id that ends a caption.
        text_len: see `generate_captions`.
    """
    longest = max(map(len, captions))
    read = _read(model, prompts, longest, text_len)
    states, device = [read.hidden[:, None]], read.hidden.device
    if longest:
        ids = torch.tensor([[*caption, *[end_id] * (longest - len(caption))] for caption in captions], device=device)
        positions = read.next_position[:, None] + torch.arange(longest, device=device)
        states.append(read.decoder.text(ids, positions, read.num_seen + longest))
    hidden_BLD = torch.cat(states, dim=1)
    places = [(row, place) for row, caption in enumerate(captions) for place in range(len(caption) + 1)]
    rows, places_of = (torch.tensor(each, device=device) for each in zip(*places, strict=True))
    labels = torch.tensor([one for caption in captions for one in (*caption, end_id)], device=device)
    even = torch.ones(len(labels), device=device)
    _, losses = model.head(hidden_BLD[rows, places_of], State.TEXT, labels, even)
    summed = torch.zeros(len(captions), dtype=torch.float64, device=device).index_add_(0, rows, losses.double())
    likelihoods: np.ndarray = -summed.cpu().numpy()
    return likelihoods


@dataclass(frozen=True)
class _Read:
    """Prompts that have been run.

    Attributes:
        decoder: has the prompts in its cache.
        hidden: state after each prompt, [B, D].
        next_position: position of the id after each prompt, [B].
        num_seen: slots that the next id sees, without its own.
    """

    decoder: Decoder
    hidden: torch.Tensor
    next_position: torch.Tensor
    num_seen: int


def _read(model: MarsForCausalLM, prompts: list[np.ndarray], max_new_ids: int, text_len: int) -> _Read:
    """Runs prompts, in a cache with room for `max_new_ids` more."""
    text_vocab_size, device = model.config.text_vocab_size, model.head.visual_weight.device
    texts = [prompt[prompt < text_vocab_size] for prompt in prompts]
    pictures = torch.from_numpy(np.stack([prompt[len(text) :] for prompt, text in zip(prompts, texts, strict=True)]))
    assert (pictures >= text_vocab_size).all(), "a caption's prompt is text, then a picture"
    text_len = text_len or max(len(text) for text in texts)
    lengths = torch.tensor([len(text) for text in texts], device=device)

    decoder = Decoder(model, len(prompts), text_len + pictures.shape[1] + max_new_ids, many_steps=False)
    ids = torch.from_numpy(np.stack([np.pad(text, (0, text_len - len(text))) for text in texts]))
    decoder.text(ids.to(device), torch.arange(text_len, device=device).expand(len(prompts), -1), text_len)
    in_picture = torch.arange(pictures.shape[1], device=device).expand(len(prompts), -1)
    positions = lengths[:, None] + in_picture
    num_seen = text_len + pictures.shape[1]
    hidden = decoder.visual(pictures.to(device), positions, in_picture, positions + 1, num_seen)[:, -1]
    return _Read(decoder, hidden, positions[:, -1] + 1, num_seen)
