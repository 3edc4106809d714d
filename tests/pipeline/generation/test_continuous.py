"""Rows that enter and leave a running batch at any position get what they would get alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.vocabulary import Role, State
from pipeline.generation import continuous
from pipeline.generation.captions import generate_captions
from pipeline.generation.continuous import PATIENCE, TURN, ContinuousBatch
from pipeline.generation.documents import DocumentLimits, generate_documents
from pipeline.generation.packed_linear import can_pack
from pipeline.generation.pictures import HighResolution, PictureGenerator
from pipeline.generation.sampling import GREEDY, Sampling, choose
from pipeline.generation.steps import Layout, Steps, caption_steps, document_steps, picture_steps
from pipeline.model.mars import MarsForCausalLM
from tests.support.models import random_model
from tests.support.small_models import CODEBOOK, END_ID, builder_of

NUM_CODES, NUM_ROWS, PROMPT_LEN, CAPACITY = 9, 4, 5, 60
HIGH = HighResolution(Role.HIGH_1, 4, 16)
RANDOM = Sampling(temperature=1.3, top_k=20, top_p=0.9)
GUIDED = replace(RANDOM, guidance_scale=2.5)
PROMPTS = [[11, 12, 13, 14], [15], [], [16, 17, 18, 19, 20], [21, 22], [31], [11, 12]]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request: pytest.FixtureRequest) -> MarsForCausalLM:
    mars: MarsForCausalLM = random_model().to(request.param)
    return mars


def layout_of(mars: MarsForCausalLM) -> Layout:
    return Layout(mars.config.vocabulary, PROMPT_LEN, NUM_CODES, HIGH, END_ID)


class Running:
    """A batch with a queue: rows enter at the given passes, or as soon as one is free."""

    def __init__(self, mars: MarsForCausalLM) -> None:
        self.batch = ContinuousBatch(mars, NUM_ROWS, CAPACITY)
        self.results: dict[int, Any] = {}

    def run(self, entering: list[tuple[int, Steps]]) -> list[Any]:
        waiting, number, first = list(enumerate(entering)), 0, len(self.results)
        while waiting or self.batch.num_running:
            while waiting and waiting[0][1][0] <= number and self.batch.num_free:
                place, (_, steps) = waiting.pop(0)
                self.batch.start(steps, self._keeper(first + place))
            self.batch.advance()
            number += 1
        return [self.results[first + place] for place in range(len(entering))]

    def _keeper(self, place: int) -> Callable[[Any], None]:
        return lambda result: self.results.update({place: result})


@pytest.mark.slow
def test_a_picture_is_the_one_that_generate_draws_whatever_shares_the_batch(model: MarsForCausalLM) -> None:
    """With and without guidance and high resolution, at any offset between the rows, bit for bit."""
    layout, entering, expected = layout_of(model), [], []
    for number, prompt in enumerate(PROMPTS * 2):
        sampling, high = (RANDOM, GUIDED, GREEDY)[number % 3], number % 4 != 3
        entering.append((number * 3, picture_steps(layout, prompt, number, sampling, high)))
        generator = PictureGenerator(
            model, NUM_ROWS, PROMPT_LEN, NUM_CODES, sampling, HIGH if high else None, as_served=True
        )
        expected.append(generator.draw([prompt], [number]))
    for made, alone in zip(Running(model).run(entering), expected, strict=True):
        assert np.array_equal(made.codes, alone.codes)
        if alone.high_codes is None:
            assert made.high_codes is None
        else:
            assert np.array_equal(made.high_codes, alone.high_codes)
    assert len({tuple(each.codes[0]) for each in expected}) > len(PROMPTS), "equal pictures would show nothing"


def test_generate_as_served_draws_a_picture_that_does_not_depend_on_the_batch(model: MarsForCausalLM) -> None:
    generator = PictureGenerator(model, NUM_ROWS, PROMPT_LEN, NUM_CODES, GUIDED, HIGH, as_served=True)
    together = generator.draw(PROMPTS[:NUM_ROWS], [1, 2, 3, 4])
    for row, prompt in enumerate(PROMPTS[:NUM_ROWS]):
        alone = generator.draw([prompt], [row + 1])
        assert np.array_equal(alone.codes[0], together.codes[row])
        assert alone.high_codes is not None and together.high_codes is not None
        assert np.array_equal(alone.high_codes[0], together.high_codes[row])


def test_as_served_draws_what_the_whole_batch_at_once_draws() -> None:
    """In float32 the two forms differ in rounding alone, which seldom changes a code."""
    mars = random_model()
    plain, as_served = (
        PictureGenerator(mars, NUM_ROWS, PROMPT_LEN, NUM_CODES, RANDOM, HIGH, as_served=each).draw(PROMPTS[:4], [1] * 4)
        for each in (False, True)
    )
    assert np.array_equal(plain.codes, as_served.codes)


def test_captions_and_documents_share_the_batch_and_are_those_of_generate() -> None:
    mars = random_model()
    layout, limits = layout_of(mars), DocumentLimits(NUM_CODES, 2, 12)
    codes = [(np.arange(NUM_CODES) * (number + 1)) % CODEBOOK for number in range(2)]
    asked = [
        builder_of(mars).caption_prompt(each, language) for each, language in zip(codes, ("en", "zh"), strict=True)
    ]
    # Openers are as likely as text, so that documents have pictures.
    mars.head.visual_weight.data[CODEBOOK] = mars.head.text_weight.data[3] * 1.1
    for sampling in (RANDOM, GUIDED):
        entering = [(0, picture_steps(layout, [11], 3, sampling, True))]
        entering += [(5 * n, caption_steps(layout, each, 6, 7, sampling)) for n, each in enumerate(asked)]
        entering += [
            (4 * n, document_steps(layout, prompt, limits, CAPACITY, n, sampling))
            for n, prompt in enumerate(([41, 42], [43], [44, 45, 46]))
        ]
        _, first, second, *documents = Running(mars).run(entering)
        assert [first, second] == generate_captions(mars, asked, END_ID, 6, sampling, [7, 7])
        expected = generate_documents(mars, [[41, 42], [43], [44, 45, 46]], limits, END_ID, sampling, [0, 1, 2])
        for made, true in zip(documents, expected, strict=True):
            assert [list(each) for each in made] == [list(each) for each in true]
    assert any(isinstance(each, np.ndarray) for document in expected for each in document)


@pytest.mark.parametrize("fails_at", [0, 1, 4])
def test_a_row_whose_steps_fail_ends_alone(fails_at: int) -> None:
    mars = random_model()
    layout = layout_of(mars)

    def failing() -> Steps:
        steps, chosen = picture_steps(layout, [11], 0, RANDOM, True), list[int]()
        yield next(steps)
        for _ in range(fails_at):
            chosen = yield steps.send(chosen)
        raise ValueError("this row's own")

    entering = [(number, picture_steps(layout, PROMPTS[number], number, RANDOM, True)) for number in range(2)]
    expected = Running(mars).run(list(entering))
    entering = [(number, picture_steps(layout, PROMPTS[number], number, RANDOM, True)) for number in range(2)]
    first, second, failed = Running(mars).run([*entering, (2, failing())])
    assert str(failed) == "this row's own"
    assert [each.codes.tolist() for each in (first, second)] == [each.codes.tolist() for each in expected]


def test_settings_that_cannot_be_sampled_with_end_only_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose_or_fail(logits: torch.Tensor, sampling: Sampling, uniform: torch.Tensor) -> torch.Tensor:
        if sampling == GUIDED:
            raise RuntimeError("out of range")
        return choose(logits, sampling, uniform)

    monkeypatch.setattr(continuous, "choose", choose_or_fail)
    mars = random_model()
    layout = layout_of(mars)
    entering = [(0, picture_steps(layout, PROMPTS[0], 0, sampling, True)) for sampling in (RANDOM, GUIDED, RANDOM)]
    first, failed, last = Running(mars).run(entering)
    assert isinstance(failed, RuntimeError) and np.array_equal(first.codes, last.codes)


def test_what_is_told_while_a_row_runs_is_its_result(model: MarsForCausalLM) -> None:
    told: list[int] = []

    def tell(state: State, chosen: list[int]) -> None:
        assert state is State.CODES
        told.extend(chosen)

    (made,) = Running(model).run([(0, picture_steps(layout_of(model), [11], 3, RANDOM, True, tell))])
    assert told == [*made.codes[0], *made.high_codes[0]]


def test_a_stopped_row_is_free_and_leaves_the_others_as_they_were(model: MarsForCausalLM) -> None:
    layout, running = layout_of(model), Running(model)
    (alone,) = Running(model).run([(0, picture_steps(layout, [15], 5, RANDOM, True))])
    gone = running.batch.start(
        picture_steps(layout, [11, 12], 4, RANDOM, True), lambda _: pytest.fail("it was stopped")
    )
    for _ in range(4):
        running.batch.advance()
    running.batch.start(picture_steps(layout, [15], 5, RANDOM, True), lambda made: running.results.update({0: made}))
    running.batch.advance()
    running.batch.stop(gone)
    assert running.batch.num_free == NUM_ROWS - 1
    running.run([])
    assert np.array_equal(running.results[0].high_codes, alone.high_codes)


def test_no_row_waits_for_ever_for_others_of_another_shape() -> None:
    """Else whoever asks for a picture with guidance would wait as long as others without keep coming."""
    mars = random_model()
    layout, batch, done = layout_of(mars), ContinuousBatch(mars, NUM_ROWS, CAPACITY), list[str]()
    batch.start(picture_steps(layout, [11], 0, GUIDED, False), lambda _: done.append("guided"))
    passes = 0
    while not done and passes < 2 * (PATIENCE + TURN):
        while batch.num_free:
            batch.start(picture_steps(layout, [12], 0, RANDOM, False), lambda _: None)
        batch.advance()
        passes += 1
    assert done == ["guided"]


def test_a_row_of_another_place_has_the_same_picture() -> None:
    """The rows of a pass must not differ in how they are computed."""
    mars = random_model(hidden_size=64, intermediate_size=160).to(torch.bfloat16)
    if not can_pack(mars.head.visual_weight):
        pytest.skip("this CPU has no bfloat16")
    layout = layout_of(mars)
    made = Running(mars).run([(0, picture_steps(layout, [11, 12], 9, RANDOM, True)) for _ in range(NUM_ROWS)])
    assert len({tuple(each.high_codes[0]) for each in made}) == 1
