"""Little of what a GPU computes is padding, and ranks that wait for each other have as much to do."""

import numpy as np
import pytest

from pipeline.config.tasks import Kind
from pipeline.data.packing import deal_rows, pack_rows
from tests.support.plans import WebLikeRows, plan_of_mars_7b


def test_the_captions_are_as_long_as_said() -> None:
    lengths = [len(WebLikeRows().row(0, place).captions[0].ids) for place in range(20_000)]
    assert np.mean(lengths) == pytest.approx(77, abs=2)
    assert np.quantile(lengths, 0.9) > 150


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("world_size", [8, 64])
def test_at_most_three_percent_is_padding_at_mars_7b(stage: int, world_size: int) -> None:
    """Ranks that wait for each other in every layer waste at most a tenth of their time."""
    plan = plan_of_mars_7b(stage)
    tokens = padded = samples = 0
    slowest: dict[tuple[int, Kind], int] = {}
    for rank in range(world_size):
        step = plan.step(0, rank, world_size)
        work = [batch.work for batches in step.micro_steps for batch in batches]
        tokens += sum(each.tokens for each in work)
        padded += sum(each.padded_tokens for each in work)
        samples = step.num_samples
        for number, batches in enumerate(step.micro_steps):
            for batch in batches:
                key = number, batch.kind
                slowest[key] = max(slowest.get(key, 0), batch.work.padded_tokens)
    assert tokens > 200 * samples, "samples were lost"
    assert 0 < 1 - tokens / padded <= 0.03
    assert tokens / (world_size * sum(slowest.values())) >= 0.9


def test_a_filler_counts_as_padding() -> None:
    plan = plan_of_mars_7b(1, global_batch_size=8)

    def tokens_of_ranks(world_size: int) -> list[int]:
        steps = [plan.step(0, rank, world_size) for rank in range(world_size)]
        assert all(batch.work.padded_tokens for step in steps for batches in step.micro_steps for batch in batches)
        return [sum(batch.work.tokens for batches in step.micro_steps for batch in batches) for step in steps]

    assert sum(tokens_of_ranks(16)) == sum(tokens_of_ranks(1))
    assert 0 in tokens_of_ranks(16), "16 ranks were to share 8 samples of two kinds"


@pytest.mark.parametrize("world_size", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_row_is_dealt_once_and_a_micro_steps_rows_cost_alike(world_size: int, size: int) -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 60, 200).tolist()
    rows = pack_rows(lengths, 64, world_size)
    costs = [float(sum(lengths[index] ** 2 for index in row)) for row in rows]
    dealt = deal_rows(costs, world_size, size)
    ranks = [[[rows[row] for row in micro[rank]] for micro in dealt] for rank in range(world_size)]
    assert sorted(index for dealt in ranks for micro in dealt for row in micro for index in row) == list(range(200))
    assert len({tuple(len(micro) for micro in dealt) for dealt in ranks}) == 1, "ranks have other numbers of rows"
    cost_of = {tuple(row): cost for row, cost in zip(rows, costs, strict=True)}
    slowest = [max(cost_of[tuple(row)] for dealt in ranks for row in dealt[number]) for number in range(len(ranks[0]))]
    fastest = [min(cost_of[tuple(row)] for dealt in ranks for row in dealt[number]) for number in range(len(ranks[0]))]
    assert all(low >= high for low, high in zip(fastest, slowest[1:], strict=False))
