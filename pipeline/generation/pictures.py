"""Generates pictures as codes from prompts.

Shape letters: B prompts, R rows of the cache (2B with guidance: the conditional ones first), N codes of a picture,
M of a high-resolution one, K codes chosen at once.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.config.model_sizes import cache_slots
from pipeline.config.stage import StageConfig
from pipeline.config.vocabulary import Role, State
from pipeline.generation.decoder import Decoder
from pipeline.generation.sampling import Sampling, choose, guide, uniform_numbers
from pipeline.generation.speculative import PLAIN, CorpusDrafts, Speculation, decode_speculatively
from pipeline.model.mars import MarsForCausalLM


@dataclass(frozen=True)
class HighResolution:
    """The high-resolution settings that a model was trained with.

    Attributes:
        role: the role that decides the pictures' borders.
        group_size: K of next-K-token prediction; it divides `num_codes`.
        num_codes: M.
    """

    role: Role
    group_size: int
    num_codes: int

    @classmethod
    def of_stage(cls, stage: StageConfig, num_codes: int | None) -> "HighResolution | None":
        """Returns the settings of `stage`, or None if the stage has no high-resolution task.

        Args:
            stage: a stage's settings.
            num_codes: M, from the fingerprint of the tokens.
        """
        if not stage.needs_high_codes:
            return None
        assert num_codes
        return cls(Role[stage.high_resolution_role.upper()], stage.high_resolution_group, num_codes)

    def __post_init__(self) -> None:
        if self.group_size < 1 or self.num_codes % self.group_size:
            raise ValueError(f"group_size {self.group_size} does not divide the {self.num_codes} high-resolution codes")


@dataclass(frozen=True)
class Pictures:
    """Raw VQ indices, int64: `codes` [B, N], and `high_codes` [B, M] if a high resolution was requested."""

    codes: np.ndarray
    high_codes: np.ndarray | None


class PictureGenerator:
    """Generates batches of one shape with one reused cache.

    A row's picture depends only on its prompt and its seed: batches are padded to `batch_size` rows and prompts to
    `prompt_len` ids, so that the shapes of all matrix products are independent of the other rows.

    Args:
        model: the model.
        batch_size: prompts in a batch.
        prompt_len: maximum text ids of a prompt.
        num_codes: N.
        sampling: sampling of codes.
        high: generate a high-resolution picture after each base picture.
        many_steps: see `Decoder`; must be False while ZeRO-3 partitions the weights.
        compile_steps: run every step after the first as a CUDA graph made by `torch.compile`; on CUDA only.
        as_served: draw the pictures that a server draws with as many rows (see `pipeline.generation.continuous`): each
            prompt is run by itself, and the codes of a resolution attend to the same number of slots, so that a pass
            has the same shape wherever its rows are. Not while ZeRO-3 partitions the weights: ranks would differ in
            their passes.
        speculation: draw in fewer passes with drafts; not with `compile_steps`.

    Attributes:
        batch_size, num_passes: prompts in a batch; passes of the pictures drawn last, without those of their prompts.
    """

    def __init__(
        self,
        model: MarsForCausalLM,
        batch_size: int,
        prompt_len: int,
        num_codes: int,
        sampling: Sampling,
        high: HighResolution | None = None,
        many_steps: bool = True,
        compile_steps: bool = False,
        as_served: bool = False,
        speculation: Speculation = PLAIN,
    ) -> None:
        self.batch_size, self._prompt_len, self._num_codes = batch_size, prompt_len, num_codes
        self._vocabulary, self._sampling, self._high = model.config.vocabulary, sampling, high
        self._as_served, self._speculation = as_served, speculation
        self._device = model.head.visual_weight.device
        assert not compile_steps or self._device.type == "cuda", "CUDA graphs need CUDA"
        assert speculation == PLAIN or not compile_steps, "drafts are made on the host"
        num_rows = batch_size * (2 if sampling.guided else 1)
        resolutions = [(num_codes, 1), *([(high.num_codes, high.group_size)] if high else [])]
        beyond = max(speculation.drafts_of(*each) for each in resolutions)  # the last passes reach beyond the picture
        capacity = prompt_len + positions_after_prompt(num_codes, high) + beyond
        self._decoder = Decoder(model, num_rows, capacity, many_steps, whole_cache=compile_steps)
        self._compiled_step = None
        if compile_steps:
            self._compiled_step = torch.compile(self._step, mode="reduce-overhead", fullgraph=True, dynamic=False)
        self._positions, self._num_seen = torch.zeros(num_rows, dtype=torch.int64, device=self._device), 0
        self._openers_at, self._num_given, self.num_passes = self._positions, 0, 0

    @torch.no_grad()
    def draw(self, prompts: list[list[int]], seeds: list[int]) -> Pictures:
        """Generates pictures for at most `batch_size` prompts of text ids; an empty prompt is unconditional."""
        uniform = self._start(prompts, seeds)
        opener = torch.full_like(self._positions, self._vocabulary.opener(Role.BASE))[:, None]
        num_slots = slots_of(self._prompt_len, self._num_codes)
        codes = self._decode(opener, 1, uniform[:, : self._num_codes], num_slots, self._speculation.base)
        high_codes = self._decode_high(codes, uniform) if self._high else None
        return Pictures(
            _to_host(codes, len(prompts)), None if high_codes is None else _to_host(high_codes, len(prompts))
        )

    def draw_all(self, prompts: list[list[int]], seeds: list[int]) -> Pictures:
        """The same for any number of prompts, one batch after the other."""
        starts = range(0, len(prompts), self.batch_size)
        parts = [
            self.draw(prompts[start : start + self.batch_size], seeds[start : start + self.batch_size])
            for start in starts
        ]
        high_codes = [part.high_codes for part in parts if part.high_codes is not None]
        return Pictures(
            np.concatenate([part.codes for part in parts]), np.concatenate(high_codes) if high_codes else None
        )

    @torch.no_grad()
    def read(self, prompts: list[list[int]], codes: np.ndarray, seeds: list[int]) -> None:
        """Runs prompts and their given base pictures, int64 [B, N]. `generate_high` then adds the high resolution."""
        self._uniform = self._start(prompts, seeds)
        codes_BN = torch.from_numpy(np.stack(_padded(list(codes), self.batch_size))).to(self._device)
        ids = self._both_halves(codes_BN[:, :-1] + self._vocabulary.code_offset)
        opener = torch.full_like(ids[:, :1], self._vocabulary.opener(Role.BASE))
        self._run(torch.cat([opener, ids], dim=1), 1)
        self._last_codes = codes_BN[:, -1:]

    @torch.no_grad()
    def generate_high(self) -> np.ndarray:
        """Generates the high-resolution codes [B, M] for the pictures that were read, as `draw` does."""
        return _to_host(self._decode_high(self._last_codes, self._uniform), self._num_given)

    def _start(self, prompts: list[list[int]], seeds: list[int]) -> Tensor:
        """Runs the prompts' text and returns all random numbers, [B, N + M]."""
        assert 0 < len(prompts) == len(seeds) <= self.batch_size
        assert max(map(len, prompts)) <= self._prompt_len
        self._num_given, self.num_passes = len(prompts), 0
        prompts, seeds = _padded(prompts, self.batch_size), _padded(seeds, self.batch_size)
        if self._as_served:
            for row, prompt in enumerate(prompts[: self._num_given]):
                run_prompt(self._decoder, prompt, row)
        elif self._prompt_len:
            # After a shorter prompt, padding fills slots that its picture overwrites.
            ids = torch.tensor([[*prompt, *[0] * (self._prompt_len - len(prompt))] for prompt in prompts])
            positions = torch.arange(self._prompt_len, device=self._device).expand(self.batch_size, -1)
            self._decoder.text(ids.to(self._device), positions, self._prompt_len)
        counts = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        self._positions = torch.cat([counts, torch.zeros_like(counts)]) if self._sampling.guided else counts
        self._openers_at = self._positions.clone()  # an alias would be compiled to a separate graph
        self._num_seen = self._prompt_len  # not the batch's longest: shapes must not depend on the other rows
        return uniform_numbers(seeds, self._num_codes + (self._high.num_codes if self._high else 0), self._device)

    def _decode_high(self, codes_BN: Tensor, uniform: Tensor) -> Tensor:
        """Generates high-resolution codes [B, M] after a base picture whose last code has not been run yet."""
        assert self._high is not None
        last = self._both_halves(codes_BN[:, -1:] + self._vocabulary.code_offset)
        closer = torch.full_like(last, self._vocabulary.closer(Role.BASE))
        openers = torch.full_like(last, self._vocabulary.opener(self._high.role)).expand(-1, self._high.group_size)
        ids = torch.cat([last, closer, openers], dim=1)
        num_slots = slots_of(self._prompt_len, self._num_codes, self._high)
        uniform = uniform[:, self._num_codes :]
        return self._decode(ids, self._high.group_size, uniform, num_slots, self._speculation.high)

    def _decode(
        self, ids: Tensor, group_size: int, uniform: Tensor, num_slots: int, drafts: CorpusDrafts | None
    ) -> Tensor:
        """Generates one code per random number, `group_size` at once: [B, codes].

        Runs the joint `ids` [R, T] first. Their last `group_size` form one group, the others groups of one. With
        `as_served`, all passes attend to `num_slots`. With drafts, the passes after the first one run them.
        """
        if drafts:
            return self._decode_speculatively(ids, group_size, uniform, num_slots, drafts)
        codes = []
        for numbers in uniform.split(group_size, dim=1):
            if self._compiled_step and ids.shape[1] == group_size:
                # Attends to all slots: a changing number would need another graph.
                step, num_seen = self._compiled_step, 0
            else:
                step, num_seen = self._step, num_slots if self._as_served else self._num_seen + ids.shape[1]
            chosen = step(ids, self._positions, self._openers_at, numbers.contiguous(), num_seen, group_size)
            self.num_passes += 1
            codes.append(chosen.clone())  # a CUDA graph writes its next result to the same memory
            self._positions, self._num_seen = self._positions + ids.shape[1], self._num_seen + ids.shape[1]
            ids = self._both_halves(codes[-1] + self._vocabulary.code_offset)
        return torch.cat(codes, dim=1)

    def _decode_speculatively(
        self, ids: Tensor, group_size: int, uniform: Tensor, num_slots: int, drafts: CorpusDrafts
    ) -> Tensor:
        """As `_decode`, with `drafts`. All passes attend to as many slots: shapes must not depend on the other rows."""
        begin, num_seen = self._positions + ids.shape[1], self._num_seen + ids.shape[1]
        num_drafts = self._speculation.drafts_of(uniform.shape[1], group_size)
        num_slots += num_drafts
        first = self._step(ids, self._positions, self._openers_at, uniform[:, :group_size], num_slots, group_size)

        def run(codes: Tensor, places: Tensor, random: Tensor) -> Tensor:
            ids = self._both_halves(codes + self._vocabulary.code_offset)
            positions = begin + self._both_halves(places)
            return self._step(ids, positions, self._openers_at, random, num_slots, group_size)

        codes, num_passes = decode_speculatively(run, first, uniform, drafts, num_drafts, self._num_given)
        # As plain decoding leaves them: the last group has not been run.
        num_run = uniform.shape[1] - group_size
        self._positions, self._num_seen = begin + num_run, num_seen + num_run
        self.num_passes += 1 + num_passes
        return codes

    def _step(
        self, ids: Tensor, positions: Tensor, openers_at: Tensor, uniform: Tensor, num_seen: int, group_size: int
    ) -> Tensor:
        """Runs joint ids [R, T] from `positions` [R] on, of pictures whose openers are at `openers_at` [R].

        Returns a code for each random number [B, n], chosen after the last n ids, which form groups of `group_size`.
        """
        num_chosen = uniform.shape[1]
        hidden = self._hidden(ids, positions, openers_at, num_chosen, group_size, num_seen)
        logits = guide(self._decoder.logits(hidden[:, -num_chosen:], State.CODES), self._sampling)
        return choose(logits, self._sampling, uniform)

    def _hidden(
        self, ids: Tensor, positions: Tensor, openers_at: Tensor, num_grouped: int, group_size: int, num_seen: int
    ) -> Tensor:
        """The last `num_grouped` ids form groups of `group_size`, the others groups of one."""
        offset, num_single = torch.arange(ids.shape[1], device=ids.device), ids.shape[1] - num_grouped
        group_ends = num_single + ((offset - num_single) // group_size + 1) * group_size
        seen = torch.where(offset < num_single, offset + 1, group_ends)
        at, in_picture = positions[:, None] + offset, (positions - openers_at)[:, None] + offset
        return self._decoder.visual(ids, at, in_picture, positions[:, None] + seen, num_seen)

    def _run(self, ids: Tensor, group_size: int) -> None:
        """Runs ids [R, T] without choosing codes."""
        num_seen = self._num_seen + ids.shape[1]
        self._hidden(ids, self._positions, self._openers_at, group_size, group_size, num_seen)
        self._positions, self._num_seen = self._positions + ids.shape[1], self._num_seen + ids.shape[1]

    def _both_halves(self, ids: Tensor) -> Tensor:
        return torch.cat([ids, ids]) if self._sampling.guided else ids


def positions_after_prompt(num_codes: int, high: HighResolution | None) -> int:
    """Maximum number of positions of a picture: borders, codes, and those of the high resolution."""
    return 2 + num_codes + (high.group_size + high.num_codes if high else 0)


def slots_of(prompt_len: int, num_codes: int, high: HighResolution | None = None) -> int:
    """The slots that a base picture's passes attend to with `as_served`, or those of its high resolution."""
    return cache_slots(prompt_len + positions_after_prompt(num_codes, high))


def run_prompt(decoder: Decoder, prompt: list[int], row: int) -> Tensor | None:
    """Runs one prompt by itself, in a shape that its own length decides. Returns its hidden states, [1, T, D]."""
    if not prompt:
        return None
    ids = torch.tensor([prompt], device=decoder.device)
    return decoder.text(ids, torch.arange(len(prompt), device=decoder.device)[None], len(prompt), row)


def generate_codes(
    model: MarsForCausalLM, prompts: list[list[int]], num_codes: int, sampling: Sampling, seeds: list[int] | None = None
) -> np.ndarray:
    """Generates pictures for one batch of text prompts: raw VQ indices, int64 [B, N]. Prompts may differ in length.

    `seeds` has one seed per row; None uses the sampling's seed for all rows.
    """
    prompt_len = max(len(prompt) for prompt in prompts)
    generator = PictureGenerator(model, len(prompts), prompt_len, num_codes, sampling)
    return generator.draw(prompts, [sampling.seed] * len(prompts) if seeds is None else seeds).codes


def _padded(rows: list, count: int) -> list:
    """Pads the rows to `count` with copies of the first one."""
    return [*rows, *[rows[0]] * (count - len(rows))]


def _to_host(codes: Tensor, num_rows: int) -> np.ndarray:
    return codes[:num_rows].cpu().numpy()
