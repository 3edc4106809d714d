"""What a picture, a caption or a document needs from the model, step by step, as a generator function each.

A generator yields a `Step`, gets the ids that were chosen after it, and returns its result. It knows nothing of the
other rows, so that `pipeline.generation.continuous` can run it in any row, beside any others.

Random numbers, positions and masks are those of `PictureGenerator`, `generate_captions` and `generate_documents`.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config.model_sizes import cache_slots
from pipeline.config.vocabulary import JointVocabulary, Role, State
from pipeline.generation.documents import DocumentLimits, Segment
from pipeline.generation.pictures import HighResolution, Pictures, slots_of
from pipeline.generation.sampling import Sampling, uniform_numbers


@dataclass(frozen=True)
class Shape:
    """What rows have in common that run in one pass.

    Attributes:
        visual: run the visual expert, else the text expert.
        num_ids: ids of a row.
        num_slots: slots of the cache that the ids attend to.
        state: decides the ids to choose from; None if none is chosen.
        group_size: the last ids of a row that form one group; one id is chosen after each.
        guided: run the unconditional half, too.
    """

    visual: bool
    num_ids: int
    num_slots: int
    state: State | None
    group_size: int = 1
    guided: bool = False


@dataclass(frozen=True)
class Step:
    """One pass of one row.

    Attributes:
        shape: see `Shape`.
        ids: joint ids, as many as the shape says.
        position: the position of the first id.
        in_picture: its position in the picture; also its position in the unconditional half.
        sampling: how ids are chosen.
        numbers: random numbers from [0, 1), one for each id that is chosen.
        alone: run this row by itself: a prompt, whose length is its own.
        openers: in the state TEXT, the pictures that may be opened.
    """

    shape: Shape
    ids: list[int]
    position: int
    in_picture: int
    sampling: Sampling
    numbers: list[float]
    alone: bool = False
    openers: tuple[Role, ...] = ()


Steps = Generator[Step, list[int], Pictures | list[int] | list[Segment]]
Told = Callable[[State, list[int]], None]
"""Gets the ids or the raw codes as they are chosen."""


def _ignore(state: State, chosen: list[int]) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Layout:
    """Sizes that all rows of a batch share.

    Attributes:
        vocabulary: the joint vocabulary.
        prompt_len: maximum text ids of a picture's prompt.
        num_codes: N, the codes of a base picture.
        high: the high resolution that the model was trained for, or None.
        end_id: the text id that ends captions and documents.
    """

    vocabulary: JointVocabulary
    prompt_len: int
    num_codes: int
    high: HighResolution | None
    end_id: int


def picture_steps(
    layout: Layout, prompt: list[int], seed: int, sampling: Sampling, high: bool, told: Told = _ignore
) -> Steps:
    """Draws what `PictureGenerator` draws: a base picture, and its high resolution if `high`.

    `told` gets the codes of both, one resolution after the other.
    """
    of_high = layout.high if high else None
    numbers = _numbers(seed, layout.num_codes + (of_high.num_codes if of_high else 0))
    if prompt:
        yield _prompt_step(prompt, sampling)
    num_slots = slots_of(layout.prompt_len, layout.num_codes)
    codes = yield from _base_codes(
        layout, len(prompt), sampling, numbers[: layout.num_codes], num_slots, lambda code: told(State.CODES, [code])
    )
    if not of_high:
        return Pictures(np.asarray([codes]), None)
    vocabulary, size = layout.vocabulary, of_high.group_size
    num_slots, at = slots_of(layout.prompt_len, layout.num_codes, of_high), layout.num_codes
    ids = [codes[-1] + vocabulary.code_offset, vocabulary.closer(Role.BASE), *[vocabulary.opener(of_high.role)] * size]
    high_codes: list[int] = []
    for start in range(layout.num_codes, len(numbers), size):
        shape = Shape(True, len(ids), num_slots, State.CODES, size, sampling.guided)
        chosen = yield Step(shape, ids, len(prompt) + at, at, sampling, numbers[start : start + size])
        told(State.CODES, [each - vocabulary.code_offset for each in chosen])
        high_codes += [each - vocabulary.code_offset for each in chosen]
        at, ids = at + len(ids), chosen
    return Pictures(np.asarray([codes]), np.asarray([high_codes]))


def caption_steps(
    layout: Layout, prompt: np.ndarray, max_new_ids: int, seed: int, sampling: Sampling, told: Told = _ignore
) -> Steps:
    """Writes the text after a prompt as `SequenceBuilder.caption_prompt` makes it: text ids up to the end id, an
    opener, or `max_new_ids`."""
    text_vocab_size = layout.vocabulary.text_vocab_size
    text, picture = ([int(each) for each in part] for part in np.split(prompt, [int((prompt < text_vocab_size).sum())]))
    numbers, caption = _numbers(seed, max_new_ids), list[int]()
    yield _prompt_step(text, sampling)
    shape = Shape(True, len(picture), len(prompt), State.TEXT)
    (chosen,) = yield Step(shape, picture, len(text), 0, sampling, numbers[:1], alone=True, openers=tuple(Role))
    num_slots = cache_slots(len(prompt) + max_new_ids)
    while chosen != layout.end_id and chosen < text_vocab_size:
        caption.append(chosen)
        told(State.TEXT, [chosen])
        if len(caption) == max_new_ids:
            break
        shape, at = Shape(False, 1, num_slots, State.TEXT), len(prompt) + len(caption) - 1
        number = numbers[len(caption) : len(caption) + 1]
        (chosen,) = yield Step(shape, [chosen], at, 0, sampling, number, openers=tuple(Role))
    return caption


def document_steps(
    layout: Layout,
    prompt: list[int],
    limits: DocumentLimits,
    capacity: int,
    seed: int,
    sampling: Sampling,
    told: Told = _ignore,
) -> Steps:
    """Continues a prompt with text and pictures. All passes attend to the slots of `capacity` positions."""
    vocabulary, num_slots = layout.vocabulary, cache_slots(capacity)
    numbers = _numbers(seed, limits.max_text_ids + limits.max_pictures * (limits.num_codes + 1) + 1)
    segments: list[Segment] = []
    num_chosen, num_pictures, num_text_ids, position = 1, 0, 0, len(prompt)
    openers = (Role.BASE,) if limits.max_pictures else ()
    shape = Shape(False, len(prompt), len(prompt), State.TEXT)
    (chosen,) = yield Step(shape, prompt, 0, 0, sampling, numbers[:1], alone=True, openers=openers)
    while chosen != layout.end_id:
        if chosen == vocabulary.opener(Role.BASE):
            num_pictures += 1
            openers = (Role.BASE,) if num_pictures < limits.max_pictures else ()
            told(State.TEXT, [chosen])
            drawn = numbers[num_chosen : num_chosen + limits.num_codes]
            codes = yield from _base_codes(
                layout, position, sampling, drawn, num_slots, lambda code: told(State.CODES, [code])
            )
            segments.append(np.asarray(codes, np.int64))
            num_chosen, position = num_chosen + limits.num_codes, position + limits.num_codes
            ids = [codes[-1] + vocabulary.code_offset, vocabulary.closer(Role.BASE)]
            step_shape, in_picture = Shape(True, 2, num_slots, State.TEXT), limits.num_codes
        else:
            if not segments or not isinstance(segments[-1], list):
                segments.append([])
            text = segments[-1]
            assert isinstance(text, list)
            text.append(chosen)
            told(State.TEXT, [chosen])
            num_text_ids += 1
            if num_text_ids == limits.max_text_ids:
                break
            ids, step_shape, in_picture = [chosen], Shape(False, 1, num_slots, State.TEXT), 0
        number = numbers[num_chosen : num_chosen + 1]
        (chosen,) = yield Step(step_shape, ids, position, in_picture, sampling, number, openers=openers)
        num_chosen, position = num_chosen + 1, position + len(ids)
    return segments


def _base_codes(
    layout: Layout,
    position: int,
    sampling: Sampling,
    numbers: list[float],
    num_slots: int,
    told: Callable[[int], None],
) -> Generator[Step, list[int], list[int]]:
    """Draws a base picture whose opener is at `position`. Returns raw codes; the last one has not been run."""
    vocabulary, codes = layout.vocabulary, list[int]()
    shape, joint_id = Shape(True, 1, num_slots, State.CODES, 1, sampling.guided), vocabulary.opener(Role.BASE)
    for at, number in enumerate(numbers):
        (joint_id,) = yield Step(shape, [joint_id], position + at, at, sampling, [number])
        codes.append(joint_id - vocabulary.code_offset)
        told(codes[-1])
    return codes


def _prompt_step(prompt: list[int], sampling: Sampling) -> Step:
    return Step(Shape(False, len(prompt), len(prompt), None), prompt, 0, 0, sampling, [], alone=True)


def _numbers(seed: int, count: int) -> list[float]:
    numbers: list[float] = uniform_numbers([seed], count, torch.device("cpu"))[0].tolist()
    return numbers
