"""Builds sequences of joint ids with their labels from pictures and captions.

text to image:   `caption <img> c1..cN </img>`, loss on the codes; on `<img>`, and at a place of the caption
                 where it does not come, as tasks of their own
captioning:      `instruction <img> c1..cN </img> caption <|endoftext|>`, loss on the caption
high resolution: `caption <img> c1..cN </img> <img_h> x K h1..hM`, loss as in text to image, and on the high codes
interleaved:     text and pictures `<img> c1..cN </img>` in any order, `<|endoftext|>`; loss on all but the closers

Next-K-token prediction: the high codes are cut into groups of K. Inside a group every position sees every other;
between groups attention is causal. A position predicts the code K positions later, so no prediction sees its own label.
The K openers are the first group. K = 1 is ordinary next-token prediction. All other ids are groups of one.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.config.tasks import Kind, Task
from pipeline.config.vocabulary import JointVocabulary, Role

PLAIN_SHARE = 0.25
"""Share of the captions before a picture that have a `Task.PLAIN_TEXT` label. Only three rows of the head learn from
it, and in a small model the text vocabulary's logits are the largest cost."""


@dataclass(frozen=True)
class Sequence:
    """One sample. Arrays are int64.

    Attributes:
        kind: the sample's kind. Rows contain samples of one kind.
        ids: joint ids [T].
        groups: [T], non-decreasing. A position sees all groups up to its own, including all of its own.
        label_positions: positions [L] that have a label.
        label_ids: the joint id each of them predicts [L].
        label_tasks: `Task` values [L].
    """

    kind: Kind
    ids: np.ndarray
    groups: np.ndarray
    label_positions: np.ndarray
    label_ids: np.ndarray
    label_tasks: np.ndarray

    @property
    def num_run(self) -> int:
        """Number of positions that training runs. The positions after the last label's group are left out: no label
        depends on them."""
        if not len(self.label_positions):
            return len(self.ids)
        return int(np.searchsorted(self.groups, self.groups[self.label_positions[-1]], side="right"))

    @property
    def num_visible(self) -> np.ndarray:
        """Number of positions that each one sees, itself included, int64 [T]."""
        return np.searchsorted(self.groups, self.groups, side="right")


@dataclass(frozen=True)
class SampleParts:
    """The parts of a sample of a single picture. `SequenceBuilder.sample` uses those that its kind needs.

    Attributes:
        caption_ids: text ids of the caption, without those that were dropped or cut.
        language: language of the caption.
        codes: raw VQ indices [N].
        high_codes: raw VQ indices [M] of the same picture at the high resolution, or None.
        seen_codes: the codes that later positions see in place of the predicted ones.
        plain_position: see `SequenceBuilder.text_to_image`.
        role, group_size: role and group size of the high-resolution picture.
    """

    caption_ids: list[int]
    language: str
    codes: np.ndarray
    high_codes: np.ndarray | None = None
    seen_codes: np.ndarray | None = None
    plain_position: int | None = None
    role: Role = Role.HIGH_1
    group_size: int = 1


@dataclass(frozen=True)
class SequenceBuilder:
    """Builds sequences for one vocabulary.

    Attributes:
        vocabulary: the joint id layout.
        instruction_ids: the text ids of `INSTRUCTIONS`, by language.
        end_id: the text id that ends a caption, Qwen's `<|endoftext|>`.
    """

    vocabulary: JointVocabulary
    instruction_ids: dict[str, list[int]]
    end_id: int

    def sample(self, kind: Kind, parts: SampleParts) -> Sequence:
        """Builds a sample of one of `SHARED_KINDS`."""
        match kind:
            case Kind.TEXT_TO_IMAGE:
                return self.text_to_image(parts.caption_ids, parts.codes, parts.plain_position, parts.seen_codes)
            case Kind.CAPTIONING:
                return self.captioning(parts.codes, parts.caption_ids, parts.language)
            case Kind.HIGH_RESOLUTION:
                assert parts.high_codes is not None
                return self.high_resolution(
                    parts.caption_ids,
                    parts.codes,
                    parts.high_codes,
                    parts.role,
                    parts.group_size,
                    parts.seen_codes,
                    parts.plain_position,
                )
        raise AssertionError(f"{kind} is no kind of single pictures")

    def text_to_image(
        self,
        caption_ids: list[int],
        codes: np.ndarray,
        plain_position: int | None = None,
        seen_codes: np.ndarray | None = None,
    ) -> Sequence:
        """Builds a text-to-image sample. An empty caption makes the unconditional sample for guidance.

        `codes` are raw VQ indices [N]. `plain_position` is a caption position before the last one; its label is
        `Task.PLAIN_TEXT`. With `seen_codes` [N] later positions see those codes; the labels are still `codes`.
        """
        caption = np.asarray(caption_ids, np.int64)
        ids = np.concatenate([caption, self._picture(codes)])
        seen_ids = ids if seen_codes is None else np.concatenate([caption, self._picture(seen_codes)])
        opener_at, num_codes = len(caption_ids), len(codes)
        positions = np.arange(opener_at, opener_at + num_codes)
        tasks = np.full(num_codes, Task.TEXT_TO_IMAGE.value)
        if opener_at:
            positions = np.concatenate([[opener_at - 1], positions])
            tasks = np.concatenate([[Task.OPENER.value], tasks])
        if plain_position is not None:
            assert plain_position < opener_at - 1
            positions = np.concatenate([[plain_position], positions])
            tasks = np.concatenate([[Task.PLAIN_TEXT.value], tasks])
        return Sequence(Kind.TEXT_TO_IMAGE, seen_ids, np.arange(len(ids)), positions, ids[positions + 1], tasks)

    def high_resolution(
        self,
        caption_ids: list[int],
        codes: np.ndarray,
        high_codes: np.ndarray,
        role: Role,
        group_size: int,
        seen_high_codes: np.ndarray | None = None,
        plain_position: int | None = None,
    ) -> Sequence:
        """Builds a high-resolution sample; K is `group_size`.

        `codes` and `high_codes` are raw VQ indices [N] and [M] of one picture at two sizes. With `seen_high_codes` [M]
        later positions see those codes; the labels are still `high_codes`. `plain_position`: see `text_to_image`.

        Raises:
            ValueError: K does not divide M.
        """
        if group_size < 1 or len(high_codes) % group_size:
            raise ValueError(f"group_size {group_size} does not divide the {len(high_codes)} high-resolution codes")
        low = self.text_to_image(caption_ids, codes, plain_position)
        start, number = len(low.ids), np.arange(group_size + len(high_codes))
        offset = self.vocabulary.code_offset
        high_ids = high_codes.astype(np.int64) + offset
        seen_ids = high_ids if seen_high_codes is None else seen_high_codes.astype(np.int64) + offset
        positions = start + number[: len(high_codes)]
        return Sequence(
            Kind.HIGH_RESOLUTION,
            np.concatenate([low.ids, np.full(group_size, self.vocabulary.opener(role)), seen_ids]),
            np.concatenate([low.groups, start + number // group_size]),
            np.concatenate([low.label_positions, positions]),
            np.concatenate([low.label_ids, high_ids]),
            np.concatenate([low.label_tasks, np.full(len(high_ids), Task.HIGH_RESOLUTION.value)]),
        )

    def interleaved(self, segments: list[list[int] | np.ndarray]) -> Sequence:
        """Builds a document's sample. `segments` in order: text ids as lists, pictures as arrays of raw VQ indices.

        Raises:
            ValueError: there is no picture.
        """
        if not any(isinstance(segment, np.ndarray) for segment in segments):
            raise ValueError("an interleaved document needs a picture")
        parts = [
            self._picture(part) if isinstance(part, np.ndarray) else np.asarray(part, np.int64) for part in segments
        ]
        ids = np.concatenate([*parts, [self.end_id]])
        closer = self.vocabulary.closer(Role.BASE)
        positions = np.nonzero(ids[1:] != closer)[0]  # a position predicts the next id; closers are forced
        is_plain = (np.cumsum(ids == closer)[positions] == 0) & (ids[positions + 1] < self.vocabulary.text_vocab_size)
        offset, codebook = self.vocabulary.code_offset, self.vocabulary.codebook_size
        is_code = (ids[positions + 1] >= offset) & (ids[positions + 1] < offset + codebook)
        tasks = np.where(is_plain, Task.PLAIN_TEXT.value, Task.DOCUMENT_TEXT.value)
        tasks = np.where(is_code, Task.TEXT_TO_IMAGE.value, tasks)
        return Sequence(Kind.INTERLEAVED, ids, np.arange(len(ids)), positions, ids[positions + 1], tasks)

    def captioning(self, codes: np.ndarray, caption_ids: list[int], language: str) -> Sequence:
        """Builds a captioning sample. `codes` are raw VQ indices [N].

        Raises:
            ValueError: there is no instruction for `language`.
        """
        prompt = self.caption_prompt(codes, language)
        ids = np.concatenate([prompt, np.asarray(caption_ids, np.int64), [self.end_id]])
        positions = np.arange(len(prompt) - 1, len(ids) - 1)
        tasks = np.full(len(positions), Task.CAPTIONING.value)
        return Sequence(Kind.CAPTIONING, ids, np.arange(len(ids)), positions, ids[positions + 1], tasks)

    def caption_prompt(self, codes: np.ndarray, language: str) -> np.ndarray:
        """The joint ids before a caption in `language`: instruction and picture, int64."""
        if language not in self.instruction_ids:
            known = ", ".join(sorted(self.instruction_ids))
            raise ValueError(f"no captioning instruction for language {language!r}; known: {known}")
        return np.concatenate([np.asarray(self.instruction_ids[language], np.int64), self._picture(codes)])

    def _picture(self, codes: np.ndarray) -> np.ndarray:
        opener, closer = self.vocabulary.opener(Role.BASE), self.vocabulary.closer(Role.BASE)
        return np.concatenate([[opener], codes.astype(np.int64) + self.vocabulary.code_offset, [closer]])


def count_document(text_ids: np.ndarray, before: np.ndarray, pictures: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Counts n interleaved documents by their lengths, as `SequenceBuilder.interleaved` builds them.

    Args:
        text_ids, before, pictures, codes: text ids, those before the first picture, pictures, and codes of a picture,
            int64 [n].

    Returns:
        Positions that are run, their cost (see `pipeline.data.sample_plan`), and labels by task, int64 [n, 2 + tasks].
    """
    visual = pictures * (codes + 2)
    num_run = text_ids + visual  # the end id is only predicted
    labels = np.zeros((len(text_ids), len(Task)), np.int64)
    labels[:, Task.TEXT_TO_IMAGE.value] = pictures * codes
    labels[:, Task.PLAIN_TEXT.value] = np.maximum(before - 1, 0)  # nothing predicts the first id
    labels[:, Task.DOCUMENT_TEXT.value] = num_run - pictures - labels.sum(axis=1)  # closers have no label
    return np.column_stack([num_run, 3 * visual + 2 * text_ids, labels])
