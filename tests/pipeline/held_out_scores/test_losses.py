"""A sample's loss is its own, whatever is scored beside it, and bits are what their names say."""

import math

import numpy as np
import pytest
import torch

from pipeline.config import Recipe
from pipeline.config.tasks import Task
from pipeline.data.collate import collate
from pipeline.data.rows import Caption, Row
from pipeline.data.sequences import Sequence
from pipeline.held_out_scores.losses import bits_by_task_and_language, frequency_bits, sample_nats
from pipeline.model.mars import MarsForCausalLM
from pipeline.training.objective import Objective
from tests.support.small_models import CODEBOOK, builder_of, small_config
from tests.support.tokens import STAGE


@pytest.fixture
def objective() -> Objective:
    torch.manual_seed(0)
    return Objective(MarsForCausalLM(small_config(codebook_size=CODEBOOK)).eval())


@pytest.fixture
def rows() -> list[Row]:
    random = np.random.default_rng(0)
    return [
        Row(
            f"0/{number}",
            random.integers(0, CODEBOOK, 9).astype(np.uint16),
            random.integers(0, CODEBOOK, 16).astype(np.uint16),
            [Caption("en", [10 + number] * (1 + number % 3), 5 + number)]
            + ([Caption("zh", [50 + number, 3], 6)] if number % 2 else []),
        )
        for number in range(19)
    ]


def nats_alone(objective: Objective, sample: Sequence, task: Task) -> float:
    batch = collate(sample.kind, [[sample]], objective.mars.config.vocabulary, [1.0] * len(Task), 1)
    with torch.no_grad():
        return float(objective([batch]).task_losses[task.value])


def test_each_samples_loss_equals_its_loss_alone(objective: Objective, rows: list[Row]) -> None:
    builder = builder_of(objective.mars)
    samples = [builder.captioning(row.codes, row.captions[0].ids, "en") for row in rows]
    found = sample_nats(objective, samples)[:, Task.CAPTIONING.value]
    expected = [nats_alone(objective, sample, Task.CAPTIONING) for sample in samples]
    assert found == pytest.approx(expected, rel=1e-4)


def test_bits_are_summed_over_the_rows_that_have_the_language(objective: Objective, rows: list[Row]) -> None:
    builder, recipe = builder_of(objective.mars), Recipe("small", stages=(STAGE,))
    figures = bits_by_task_and_language(objective, recipe, rows, builder)
    assert set(figures) == {
        f"{task}/{language}/{name}"
        for task, name in (
            ("text_to_image", "bits_a_code"),
            ("captioning", "bits_a_caption_byte"),
            ("high_resolution", "bits_a_code"),
        )
        for language in ("en", "zh")
    }
    chinese = [row for row in rows if len(row.captions) == 2]
    drawn = [nats_alone(objective, builder.text_to_image(r.captions[1].ids, r.codes), Task(0)) for r in chinese]
    assert figures["text_to_image/zh/bits_a_code"] == pytest.approx(sum(drawn) / math.log(2) / (9 * 9), rel=1e-4)
    read = [nats_alone(objective, builder.captioning(r.codes, r.captions[1].ids, "zh"), Task(1)) for r in chinese]
    assert figures["captioning/zh/bits_a_caption_byte"] == pytest.approx(sum(read) / math.log(2) / (9 * 6), rel=1e-4)


def test_the_frequencies_alone_give_the_cross_entropy_of_the_smoothed_counts(rows: list[Row]) -> None:
    assert frequency_bits(rows, np.full(CODEBOOK, 7)) == pytest.approx(math.log2(CODEBOOK))
    one = Row("0", np.asarray([0, 0, 1, 2]), None, [])
    assert frequency_bits([one], np.asarray([6, 0, 2])) == pytest.approx(
        -(2 * math.log2(7 / 11) + math.log2(1 / 11) + math.log2(3 / 11)) / 4
    )
