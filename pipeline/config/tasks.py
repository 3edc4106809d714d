"""The one table of tasks: what a stage can train on, and what each label teaches.

To add a task, add a member to `Kind` and to `Task` (at the end: figures of earlier runs name them by their place), a
line to `KINDS`, and a case to `pipeline.data.sequences.SequenceBuilder.sample`.
"""

from dataclasses import dataclass
from enum import Enum


class Task(Enum):
    """What a label teaches. Every task is normalised and weighted by itself. The value is its place in sums."""

    TEXT_TO_IMAGE = 0
    CAPTIONING = 1
    OPENER = 2
    """`<img>` after a caption's last position: teaches when a picture begins."""
    HIGH_RESOLUTION = 3
    DOCUMENT_TEXT = 4
    """What stands between the codes of an interleaved document: its openers, and its text after the first picture."""
    PLAIN_TEXT = 5
    """Text that no picture comes before, where none opens: the openers learn not to come. Nothing else learns from it,
    as such text depends on frozen weights only."""


class Kind(Enum):
    """What a row is made of. The micro-steps of a step run their kinds in this order on all ranks."""

    TEXT_TO_IMAGE = 0
    CAPTIONING = 1
    HIGH_RESOLUTION = 2
    INTERLEAVED = 3

    @property
    def traits(self) -> "KindTraits":
        """Its line of `KINDS`."""
        return KINDS[self]

    @property
    def has_text_prefix(self) -> bool:
        """Whether all text comes before all pictures, so that it depends on frozen weights only."""
        return self.traits.has_text_prefix

    @property
    def predicts_codes(self) -> bool:
        """Whether its pictures are to be drawn, and not only read."""
        return self.traits.predicts_codes


@dataclass(frozen=True)
class KindTraits:
    """What the rest of the project knows of a kind of sample.

    Attributes:
        has_text_prefix: all text comes before all pictures. Kinds with such a prefix cost about the same per FLOP.
        predicts_codes: its pictures are to be drawn, and not only read.
        measures: what validation reports: its name, and the task whose loss it is, in bits. `bits_a_caption_byte` is
            divided by the captions' bytes, any other by the number of the task's labels.
        has_share: stages give it a share of the single pictures (`StageConfig.task_shares`); else its samples are rows
            of their own in the token table.
        has_instruction: the caption is whole and follows an instruction in its language. Else it may be dropped, cut,
            and get a `Task.PLAIN_TEXT` label.
        needs_high_codes: it needs a picture's high-resolution codes, and predicts these.
        noise_setting: the field of `StageConfig` that says how many of the predicted codes later positions see as
            random ones; empty for none.
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
"""The kinds that a stage can give a share, by the name that recipes write."""
TASK_NAMES = tuple(task.name.lower() for task in Task)
"""The tasks that a stage can give a weight, by the name that recipes write."""
