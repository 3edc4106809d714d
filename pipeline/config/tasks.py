"""The one table of tasks: the kinds of samples that a stage can train on, and the task of each label.

To add a task, add a member to `Kind` and to `Task` (at the end: figures of earlier runs refer to them by index), a line
to `KINDS`, and a case to `pipeline.data.sequences.SequenceBuilder.sample`.
"""

from dataclasses import dataclass
from enum import Enum


class Task(Enum):
    """The task of a label. Every task is normalised and weighted separately. The value is its index in sums."""

    TEXT_TO_IMAGE = 0
    CAPTIONING = 1
    OPENER = 2
    """`<img>` after a caption's last position. It teaches when a picture begins."""
    HIGH_RESOLUTION = 3
    DOCUMENT_TEXT = 4
    """The labels of an interleaved document that are not codes: its openers, and its text after the first picture."""
    PLAIN_TEXT = 5
    """Text before any picture, at a position where no picture opens. It teaches the openers to stay unlikely. Nothing
    else learns from it, because such text depends on frozen weights only."""


class Kind(Enum):
    """The kind of samples in a row. The micro-steps of a step run their kinds in this order on all ranks."""

    TEXT_TO_IMAGE = 0
    CAPTIONING = 1
    HIGH_RESOLUTION = 2
    INTERLEAVED = 3

    @property
    def traits(self) -> "KindTraits":
        """The kind's line in `KINDS`."""
        return KINDS[self]

    @property
    def has_text_prefix(self) -> bool:
        """True if all text comes before all pictures, so that it depends on frozen weights only."""
        return self.traits.has_text_prefix

    @property
    def predicts_codes(self) -> bool:
        """True if its pictures are to be generated, and not only read."""
        return self.traits.predicts_codes


@dataclass(frozen=True)
class KindTraits:
    """The properties of a kind of sample.

    Attributes:
        has_text_prefix: all text comes before all pictures. Kinds with such a prefix cost about the same per FLOP.
        predicts_codes: its pictures are to be generated, and not only read.
        measures: the figures that validation reports: each one's name, and the task whose loss it is, in bits.
            `bits_a_caption_byte` is divided by the captions' bytes, any other by the number of the task's labels.
        has_share: stages give it a share of the single pictures (`StageConfig.task_shares`). Otherwise its samples are
            separate rows in the token table.
        has_instruction: the caption is whole and follows an instruction in its language. Otherwise it may be dropped or
            cut, and may get a `Task.PLAIN_TEXT` label.
        needs_high_codes: it needs a picture's high-resolution codes, and predicts them.
        noise_setting: the field of `StageConfig` that sets how many of the predicted codes are replaced with random
            ones for later positions; empty for none.
    """

    has_text_prefix: bool
    predicts_codes: bool
    measures: tuple[tuple[str, Task], ...]
    has_share: bool = True
    has_instruction: bool = False
    needs_high_codes: bool = False
    noise_setting: str = ""


CAPTION_BYTES = "bits_a_caption_byte"
KINDS = {
    Kind.TEXT_TO_IMAGE: KindTraits(
        has_text_prefix=True,
        predicts_codes=True,
        measures=(("bits_a_code", Task.TEXT_TO_IMAGE),),
        noise_setting="text_to_image_noise",
    ),
    Kind.CAPTIONING: KindTraits(
        has_text_prefix=False,
        predicts_codes=False,
        measures=((CAPTION_BYTES, Task.CAPTIONING),),
        has_instruction=True,
    ),
    Kind.HIGH_RESOLUTION: KindTraits(
        has_text_prefix=True,
        predicts_codes=True,
        measures=(("bits_a_code", Task.HIGH_RESOLUTION),),
        needs_high_codes=True,
        noise_setting="high_resolution_noise",
    ),
    Kind.INTERLEAVED: KindTraits(
        has_text_prefix=False,
        predicts_codes=True,
        measures=(("bits_a_code", Task.TEXT_TO_IMAGE), ("bits_a_text_id", Task.DOCUMENT_TEXT)),
        has_share=False,
    ),
}
SHARED_KINDS = {kind.name.lower(): kind for kind, traits in KINDS.items() if traits.has_share}
"""The kinds that a stage can give a share, by their names in recipes."""
TASK_NAMES = tuple(task.name.lower() for task in Task)
"""The tasks that a stage can give a weight, by their names in recipes."""
