"""Speculative decoding of pictures: a pass runs drafts of the next codes, and keeps those that turn out to be right.

A pass runs the codes that are known last and drafts of the codes after them, and chooses codes after each. What was
chosen after a right draft is what plain decoding would have chosen. Every code has its own random number, drawn in
advance (`pipeline.generation.sampling`). So a sampled picture, too, is that of plain decoding up to the rounding of a
pass of another shape, and not only one of the same distribution.

The drafts come from the corpus, as in REST (He 2023, arXiv 2311.08252): they are the next codes of the picture there
whose codes just before, `MOST_ALIKE` at most, equal this picture's for longest.

Shape letters: B pictures, N codes of a picture, K codes chosen at once (next-K-token prediction), D drafts, T = D + K
codes run in a pass, P pictures of the corpus.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenization.table.token_table import list_token_shards

MOST_PICTURES = 16_384
"""Pictures of the corpus that drafts are looked up in. Each pass compares one code of all of them, and more of those
that are alike."""
MOST_ALIKE = 16
"""Codes back that are compared: thousands of pictures may begin with the same white."""

Choose = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Runs a pass. Gets codes of each picture, int64 [B, T], the number of the first of them in the picture, int64 [B], and
random numbers, float32 [B, T]. Returns the codes chosen, int64 [B, T]: each K of them follow K of those that were
run."""


class CorpusDrafts:
    """Drafts of the codes of one resolution.

    Args:
        codes: raw VQ indices of the corpus's pictures, [P, N].
    """

    def __init__(self, codes: np.ndarray) -> None:
        self._by_place = np.ascontiguousarray(codes.T)

    def after(self, known: np.ndarray, count: int) -> np.ndarray:
        """Drafts of the codes after the `known` ones [n], at most `count`, fewer at the picture's end. n is not 0."""
        place = len(known) - 1
        alike, last = np.flatnonzero(self._by_place[place] == known[place]), max(0, len(known) - MOST_ALIKE)
        while len(alike) > 1 and place > last:
            place -= 1
            longer = alike[self._by_place[place, alike] == known[place]]
            if not len(longer):
                break
            alike = longer
        picture = alike[0] if len(alike) else 0
        return self._by_place[len(known) : len(known) + count, picture]


@dataclass(frozen=True)
class Speculation:
    """Settings of speculative decoding.

    Attributes:
        num_drafts: codes that are drafted for each pass, rounded up to whole groups of next-K-token prediction.
        base, high: give the drafts of base and high-resolution codes; without them, those are decoded plainly.
    """

    num_drafts: int = 0
    base: CorpusDrafts | None = None
    high: CorpusDrafts | None = None

    def drafts_of(self, num_codes: int, group_size: int) -> int:
        """The drafts for a pass, in whole groups, at most as many as there are codes after the first group."""
        return min(-(-self.num_drafts // group_size) * group_size, num_codes - group_size)


PLAIN = Speculation()
"""Plain decoding."""


def speculation_of(tokens: str | Path, num_drafts: int, high_resolution: bool) -> Speculation:
    """Speculation with drafts from the first `MOST_PICTURES` pictures of a token folder, or `PLAIN` without drafts.

    Raises:
        InputError: there are no tokens, or they cannot be read.
    """
    if not num_drafts:
        return PLAIN
    found: dict[str, list[np.ndarray]] = {"codes": [], **({"codes_hr": []} if high_resolution else {})}
    for shard in list_token_shards(tokens):
        table = shard.read(list(found))
        for column, pictures in found.items():
            pictures += table[column].drop_null().to_numpy().tolist()
        if len(found["codes"]) >= MOST_PICTURES:
            break
    drafts = [CorpusDrafts(np.stack(pictures[:MOST_PICTURES])) for pictures in found.values() if pictures]
    return Speculation(num_drafts, *drafts)


def decode_speculatively(
    choose: Choose, first: Tensor, uniform: Tensor, drafts: CorpusDrafts, num_drafts: int, num_wanted: int
) -> tuple[Tensor, int]:
    """Chooses the codes of pictures whose first ones are chosen, in as many passes as are needed.

    Args:
        choose: runs a pass.
        first: the first codes, int64 [B, K].
        uniform: numbers from [0, 1), float32 [B, N].
        drafts: gives the drafts.
        num_drafts: D, a multiple of K.
        num_wanted: the first rows, which are wanted. The others' codes may be wrong.

    Returns:
        The codes, int64 [B, N], and the number of passes.
    """
    (num_rows, num_codes), group_size = uniform.shape, first.shape[1]
    num_run, num_passes = num_drafts + group_size, 0
    run = torch.arange(num_run, device=first.device)
    # The last passes reach beyond the pictures; what is chosen there is left out.
    uniform = torch.nn.functional.pad(uniform, (0, num_run))
    codes = torch.zeros(num_rows, num_codes + num_run, dtype=torch.int64, device=first.device)
    codes[:, :group_size] = first
    num_known = torch.full((num_rows, 1), group_size, device=first.device)
    while bool((num_known[:num_wanted] < num_codes).any()):
        _write_drafts(codes, num_known, num_codes, drafts, num_drafts)
        begin = num_known - group_size
        places = begin + run
        following = places + group_size
        chosen = choose(codes.gather(1, places), begin[:, 0], uniform.gather(1, following))
        is_right = (chosen == codes.gather(1, following))[:, :num_drafts].unflatten(1, (-1, group_size)).all(dim=2)
        codes.scatter_(1, following, chosen)
        num_groups = 1 + is_right.cumprod(dim=1).sum(dim=1, keepdim=True)
        num_known = (num_known + group_size * num_groups).clamp(max=num_codes)
        num_passes += 1
    return codes[:, :num_codes], num_passes


def _write_drafts(codes: Tensor, num_known: Tensor, num_codes: int, drafts: CorpusDrafts, num_drafts: int) -> None:
    """Writes drafts behind the known codes of each row of `codes`."""
    on_host = codes[:, :num_codes].cpu().numpy()
    for row, known in enumerate(num_known[:, 0].tolist()):
        made = drafts.after(on_host[row, :known], num_drafts)
        codes[row, known : known + len(made)] = torch.from_numpy(made.astype(np.int64)).to(codes.device)
