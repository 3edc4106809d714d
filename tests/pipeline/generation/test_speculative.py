"""Pictures whose codes are drafted ahead are those of plain decoding, in fewer passes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from pipeline.config.vocabulary import Role, State
from pipeline.errors import InputError
from pipeline.generation.pictures import HighResolution, PictureGenerator
from pipeline.generation.sampling import GREEDY, Sampling, choose
from pipeline.generation.speculative import PLAIN, CorpusDrafts, Speculation, decode_speculatively, speculation_of
from tests.support.models import random_model
from tests.support.small_models import TEXT_VOCAB
from tests.support.tokens import write_tokens

NUM_CODES, CODES, NUM_HIGH, GROUP = 12, 5, 16, 4
PROMPTS, SEEDS = [[11, 12, 13, 14], [15], [16, 17]], [3, 4, 5]
RANDOM = Sampling(temperature=1.3, top_k=20, top_p=0.9)


class Chain:
    """A model whose code depends on the one K places before it, and on its place. Counts its passes."""

    def __init__(self, sharpness: float, sampling: Sampling, group_size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.logits = sharpness * torch.randn(NUM_CODES, CODES + 1, CODES, generator=generator)
        self.sampling, self.group_size, self.passes = sampling, group_size, 0

    def first(self, random: Tensor) -> Tensor:
        places = torch.arange(self.group_size).expand(len(random), -1)
        return choose(self.logits[places, 0], self.sampling, random[:, : self.group_size])

    def run(self, codes: Tensor, begin: Tensor, random: Tensor) -> Tensor:
        self.passes += 1
        places = begin[:, None] + torch.arange(codes.shape[1]) + self.group_size
        return choose(self.logits[places.clamp(max=NUM_CODES - 1), codes + 1], self.sampling, random)

    def one_by_one(self, random: Tensor) -> Tensor:
        codes = self.first(random)
        for begin in range(0, NUM_CODES - self.group_size, self.group_size):
            group = slice(begin, begin + self.group_size)
            after = random[:, begin + self.group_size : begin + 2 * self.group_size]
            codes = torch.cat([codes, self.run(codes[:, group], torch.full((len(codes),), begin), after)], dim=1)
        return codes

    def speculatively(self, random: Tensor, corpus: np.ndarray, num_drafts: int) -> Tensor:
        self.passes = 0
        drafts = CorpusDrafts(corpus), num_drafts
        codes, passes = decode_speculatively(self.run, self.first(random), random, *drafts, len(random))
        assert passes == self.passes
        return codes


def corpus(count: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(CODES, size=(count, NUM_CODES)).astype(np.uint16)


@pytest.mark.parametrize("group_size", [1, 2, 4])
@pytest.mark.parametrize("groups", [1, 3, 20])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling()], ids=["greedy", "sampled"])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 20.0])
def test_the_codes_are_those_that_are_chosen_one_by_one(
    group_size: int, groups: int, sampling: Sampling, sharpness: float
) -> None:
    chain = Chain(sharpness, sampling, group_size)
    random = torch.rand(50, NUM_CODES, generator=torch.Generator().manual_seed(1))
    expected = chain.one_by_one(random)
    assert torch.equal(chain.speculatively(random, corpus(), groups * group_size), expected)
    assert chain.passes <= NUM_CODES // group_size - 1, "each pass adds a group at least"


def test_a_picture_that_the_corpus_has_takes_few_passes() -> None:
    chain = Chain(1.0, GREEDY, 1)
    expected = chain.one_by_one(random := torch.zeros(1, NUM_CODES))
    with_it = np.concatenate([corpus(), expected.numpy().astype(np.uint16)])
    assert torch.equal(chain.speculatively(random, with_it, NUM_CODES), expected)
    assert chain.passes <= 4, "found by its first codes, and right to its end"


def test_drafts_are_the_next_codes_of_the_picture_that_was_alike_for_longest() -> None:
    drafts = CorpusDrafts(np.array([[1, 2, 3, 4, 5], [9, 2, 3, 7, 8], [1, 2, 0, 6, 6]], np.uint16))
    assert drafts.after(np.array([1, 2, 3]), 2).tolist() == [4, 5]
    assert drafts.after(np.array([0, 2, 3]), 1).tolist() in ([4], [7])
    assert drafts.after(np.array([9, 2, 3]), 9).tolist() == [7, 8], "no further than the picture"
    assert drafts.after(np.array([9, 9, 9]), 2).tolist() == [4, 5], "some, where none is alike"


def test_sampled_pictures_have_the_models_distribution() -> None:
    """Pearson's test of all pictures of three codes, whose probabilities come from the model's passes over their whole
    sequences. Chance exceeds 76 with 26 degrees of freedom once in a million times."""
    mars, prompt, rows, count = random_model(), [11, 12], 500, 4000
    sampling, opener = Sampling(temperature=4.0, top_k=3), mars.config.vocabulary.opener(Role.BASE)
    expected: dict[tuple[int, ...], float] = {(): float(count)}
    for _ in range(3):
        for before, number in [*expected.items()]:
            ids = torch.tensor([[*prompt, opener, *(code + TEXT_VOCAB for code in before)]])
            logits = mars.head(mars.model(ids).last_hidden_state[0, -1], State.CODES)
            likely, codes = (logits / sampling.temperature).topk(sampling.top_k)
            del expected[before]
            for code, share in zip(codes.tolist(), likely.softmax(-1).tolist(), strict=True):
                expected[(*before, code)] = number * share
    drafts = CorpusDrafts(np.array([*expected]))
    generator = PictureGenerator(mars, rows, len(prompt), 3, sampling, speculation=Speculation(2, drafts))
    made = [generator.draw([prompt] * rows, [*range(begin, begin + rows)]) for begin in range(0, count, rows)]
    observed = Counter(tuple(codes) for part in made for codes in part.codes.tolist())
    assert observed.keys() <= expected.keys() and min(expected.values()) > 5
    statistic = sum((observed[codes] - number) ** 2 / number for codes, number in expected.items())
    assert len(expected) == 27 and statistic < 76


@pytest.mark.parametrize(
    "sampling", [GREEDY, RANDOM, Sampling(guidance_scale=2.5)], ids=["greedy", "sampled", "guided"]
)
@pytest.mark.parametrize("as_served", [False, True])
def test_the_pictures_are_those_of_plain_decoding_in_fewer_passes(sampling: Sampling, as_served: bool) -> None:
    mars, high = random_model(), HighResolution(Role.HIGH_1, GROUP, NUM_HIGH)

    def drawn(speculation: Speculation) -> tuple[list[np.ndarray], int]:
        lengths = (3, 4, NUM_CODES)
        generator = PictureGenerator(mars, *lengths, sampling, high, as_served=as_served, speculation=speculation)
        made = [generator.draw(PROMPTS, SEEDS), generator.draw(PROMPTS[:2], SEEDS[:2])]
        return [
            part for each in made for part in (each.codes, each.high_codes) if part is not None
        ], generator.num_passes

    expected, num_plain = drawn(PLAIN)
    assert num_plain == NUM_CODES + NUM_HIGH // GROUP
    wrong = CorpusDrafts(np.zeros((1, NUM_CODES), np.uint16)), CorpusDrafts(np.zeros((1, NUM_HIGH), np.uint16))
    right = CorpusDrafts(expected[0]), CorpusDrafts(expected[1])
    for num_drafts in (1, 5, 10**6):
        for drafts in (wrong, right, (right[0], None)):
            found, num_passes = drawn(Speculation(num_drafts, *drafts))
            for codes, plain in zip(found, expected, strict=True):
                np.testing.assert_array_equal(codes, plain)
            assert num_passes <= num_plain
            assert drafts is wrong or num_passes < num_plain


def test_drafts_come_from_a_token_folder(tmp_path: Path) -> None:
    assert speculation_of(tmp_path, 0, True) is PLAIN, "without drafts nothing is read"
    write_tokens(tmp_path, shards=2, rows=3)
    codes, high = (first_shard(tmp_path)[column].to_pylist() for column in ("codes", "codes_hr"))
    made = speculation_of(tmp_path, 6, True)
    assert made.drafts_of(9, 1) == 6 and made.drafts_of(16, GROUP) == 8
    assert Speculation(10**6).drafts_of(16, GROUP) == 12, "no more than a picture has"
    assert made.base and made.base.after(np.array(codes[1][:4]), 3).tolist() == codes[1][4:7]
    assert made.high and made.high.after(np.array(high[2][:8]), 99).tolist() == high[2][8:]
    assert speculation_of(tmp_path, 6, False).high is None
    with pytest.raises(InputError, match="no token shard"):
        speculation_of(tmp_path / "empty", 6, True)


def first_shard(folder: Path) -> pa.Table:
    return pq.read_table(folder / "00000.parquet")


def test_tokens_without_a_high_resolution_draft_base_pictures_alone(tmp_path: Path) -> None:
    write_tokens(tmp_path, shards=1, rows=3, high=False)
    made = speculation_of(tmp_path, 6, True)
    assert made.base and made.high is None
