"""From one image-caption pair to a sequence of joint ids with its labels.

text to image: `caption <img> c1..cN </img>`, loss on the codes, and on `<img>` as a task of its own
captioning:    `instruction <img> c1..cN </img> caption <|endoftext|>`, loss on the caption
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from pipeline.vocabulary import JointVocabulary, Role

INSTRUCTIONS = {"en": "Describe the picture in English: ", "zh": "用中文描述这张图片："}
"""The captioning instruction of each language: so the model knows in which to answer."""


class Task(Enum):
    """What a label teaches. Every task is normalised and weighted by itself. The value is its place in sums."""

    TEXT_TO_IMAGE = 0
    CAPTIONING = 1
    OPENER = 2
    """`<img>` after a caption's last position: teaches when a picture begins."""


class Kind(Enum):
    """What a row is made of. The micro-steps of a step run their kinds in this order on all ranks."""

    TEXT_TO_IMAGE = 0
    CAPTIONING = 1


@dataclass(frozen=True)
class Sequence:
    """One sample. Arrays are int64.

    Attributes:
        kind: decides the row it is packed into.
        ids: joint ids [T].
        num_text_prefix: leading text ids; the rest is visual where the kind is TEXT_TO_IMAGE.
        label_positions: positions [L] that predict something.
        label_ids: the joint id each of them predicts [L].
        label_tasks: `Task` values [L].
    """

    kind: Kind
    ids: np.ndarray
    num_text_prefix: int
    label_positions: np.ndarray
    label_ids: np.ndarray
    label_tasks: np.ndarray


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

    def text_to_image(self, caption_ids: list[int], codes: np.ndarray) -> Sequence:
        """`codes` are raw VQ indices [N]. An empty caption makes the unconditional sample for guidance."""
        ids = np.concatenate([np.asarray(caption_ids, np.int64), self._picture(codes)])
        opener_at, num_codes = len(caption_ids), len(codes)
        positions = np.arange(opener_at, opener_at + num_codes)
        tasks = np.full(num_codes, Task.TEXT_TO_IMAGE.value)
        if opener_at:
            positions = np.concatenate([[opener_at - 1], positions])
            tasks = np.concatenate([[Task.OPENER.value], tasks])
        return Sequence(Kind.TEXT_TO_IMAGE, ids, opener_at, positions, ids[positions + 1], tasks)

    def captioning(self, codes: np.ndarray, caption_ids: list[int], language: str) -> Sequence:
        """`codes` are raw VQ indices [N].

        Raises:
            ValueError: there is no instruction for `language`.
        """
        prompt = self.caption_prompt(codes, language)
        ids = np.concatenate([prompt, np.asarray(caption_ids, np.int64), [self.end_id]])
        positions = np.arange(len(prompt) - 1, len(ids) - 1)
        tasks = np.full(len(positions), Task.CAPTIONING.value)
        num_prefix = len(self.instruction_ids[language])
        return Sequence(Kind.CAPTIONING, ids, num_prefix, positions, ids[positions + 1], tasks)

    def caption_prompt(self, codes: np.ndarray, language: str) -> np.ndarray:
        """What a caption in `language` is generated from: joint ids, int64."""
        if language not in self.instruction_ids:
            known = ", ".join(sorted(self.instruction_ids))
            raise ValueError(f"no captioning instruction for language {language!r}; known: {known}")
        return np.concatenate([np.asarray(self.instruction_ids[language], np.int64), self._picture(codes)])

    def _picture(self, codes: np.ndarray) -> np.ndarray:
        opener, closer = self.vocabulary.opener(Role.BASE), self.vocabulary.closer(Role.BASE)
        return np.concatenate([[opener], codes.astype(np.int64) + self.vocabulary.code_offset, [closer]])
