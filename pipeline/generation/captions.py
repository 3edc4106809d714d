"""Generates captions from pictures.

Shape letter: B captions.
"""

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
    texts = [prompt[prompt < text_vocab_size] for prompt in prompts]
    pictures = torch.from_numpy(np.stack([prompt[len(text) :] for prompt, text in zip(prompts, texts, strict=True)]))
    assert (pictures >= text_vocab_size).all(), "a caption's prompt is text, then a picture"
    text_len = text_len or max(len(text) for text in texts)
    lengths = torch.tensor([len(text) for text in texts], device=device)
    uniform = uniform_numbers([sampling.seed] * len(prompts) if seeds is None else seeds, max_new_ids, device)

    decoder = Decoder(model, len(prompts), text_len + pictures.shape[1] + max_new_ids, many_steps=False)
    ids = torch.from_numpy(np.stack([np.pad(text, (0, text_len - len(text))) for text in texts]))
    decoder.text(ids.to(device), torch.arange(text_len, device=device).expand(len(prompts), -1), text_len)
    in_picture = torch.arange(pictures.shape[1], device=device).expand(len(prompts), -1)
    positions = lengths[:, None] + in_picture
    num_seen = text_len + pictures.shape[1]
    hidden = decoder.visual(pictures.to(device), positions, in_picture, positions + 1, num_seen)[:, -1]
    next_position = positions[:, -1] + 1

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
