"""Free-running generation: pictures as codes from prompts, captions from pictures.

Shape letters: B prompts, N codes of a picture, T positions so far.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.model import MarsForCausalLM
from pipeline.vocabulary import Role, State


@dataclass(frozen=True)
class Sampling:
    """How the next code is chosen.

    Attributes:
        temperature: 0 takes the likeliest.
        top_k: sample among this many likeliest; 0 among all.
        guidance_scale: 1 for none; otherwise `uncond + scale * (cond - uncond)` on the logits (Ho 2022).
        seed: of the sampling.
    """

    temperature: float = 1.0
    top_k: int = 0
    guidance_scale: float = 1.0
    seed: int = 0

    def problems(self) -> list[str]:
        """What makes it impossible; empty where nothing does."""
        values = {name: getattr(self, name) for name in ("temperature", "top_k", "guidance_scale", "seed")}
        # Written so that NaN is a problem, too.
        return [f"{name} is {value}, it must be at least 0" for name, value in values.items() if not value >= 0]


@torch.no_grad()
def generate_codes(model: MarsForCausalLM, prompts: list[list[int]], num_codes: int, sampling: Sampling) -> np.ndarray:
    """Pictures for text prompts: raw VQ indices, int64 [B, N]. Prompts may differ in length."""
    opener = model.config.vocabulary.opener(Role.BASE)
    contexts = [np.asarray([*prompt, opener], np.int64) for prompt in prompts]
    guided = sampling.guidance_scale != 1.0
    if guided:
        contexts += [np.asarray([opener], np.int64)] * len(prompts)
    generator = torch.Generator().manual_seed(sampling.seed)
    decoder = _Decoder(model, contexts)
    codes: list[Tensor] = []
    for _ in range(num_codes):
        logits = decoder.logits(State.CODES)
        if guided:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + sampling.guidance_scale * (conditional - unconditional)
        chosen = _choose(logits, sampling, generator)
        codes.append(chosen)
        ids = chosen + model.config.vocabulary.code_offset
        decoder.feed(torch.cat([ids, ids]) if guided else ids)
    return torch.stack(codes, dim=1).cpu().numpy()


@torch.no_grad()
def generate_captions(
    model: MarsForCausalLM, prompts: list[np.ndarray], end_id: int, max_new_ids: int
) -> list[list[int]]:
    """The likeliest text after each prompt of joint ids, up to `end_id`, an opener, or `max_new_ids`."""
    decoder = _Decoder(model, prompts)
    captions: list[list[int]] = [[] for _ in prompts]
    open_rows = np.ones(len(prompts), bool)
    for _ in range(max_new_ids):
        chosen = decoder.logits(State.TEXT).argmax(-1)
        ids = chosen.cpu().numpy()
        open_rows &= (ids != end_id) & (ids < model.config.text_vocab_size)
        if not open_rows.any():
            break
        for row in np.nonzero(open_rows)[0]:
            captions[row].append(int(ids[row]))
        decoder.feed(torch.where(torch.from_numpy(open_rows).to(chosen.device), chosen, end_id))
    return captions


class _Decoder:
    """A batch of growing sequences with their cache, padded on the left."""

    def __init__(self, model: MarsForCausalLM, contexts: list[np.ndarray]) -> None:
        self._model, device = model, next(model.parameters()).device
        length = max(len(context) for context in contexts)
        ids = np.zeros((len(contexts), length), np.int64)
        mask = np.zeros((len(contexts), length), np.int64)
        for row, context in enumerate(contexts):
            ids[row, length - len(context) :] = context
            mask[row, length - len(context) :] = 1
        self._mask_BT = torch.from_numpy(mask).to(device)
        positions = (self._mask_BT.cumsum(1) - 1).clamp(min=0)
        self._next_position_B = positions[:, -1] + 1
        self._run(torch.from_numpy(ids).to(device), positions, None)

    def logits(self, state: State) -> Tensor:
        """Float32 logits over what `state` allows, [B, rows]."""
        return self._model.head(self._hidden_BD, state).float()

    def feed(self, ids_B: Tensor) -> None:
        """Appends one joint id to every sequence."""
        self._mask_BT = torch.cat([self._mask_BT, torch.ones_like(self._mask_BT[:, :1])], dim=1)
        self._run(ids_B[:, None], self._next_position_B[:, None], self._cache)
        self._next_position_B = self._next_position_B + 1

    def _run(self, ids: Tensor, positions: Tensor, cache: Any) -> None:
        output = self._model.model(ids, self._mask_BT, positions, cache, use_cache=True)
        self._hidden_BD, self._cache = output.last_hidden_state[:, -1], output.past_key_values


def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    if sampling.temperature == 0:
        return logits.argmax(-1)
    if sampling.top_k:
        floor = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < floor, float("-inf"))
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)
