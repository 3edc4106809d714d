"""What the front asks of a replica, and what it hears of it. Both cross processes."""

from dataclasses import dataclass
from typing import Literal

from pipeline.generation.sampling import Sampling


@dataclass(frozen=True)
class PictureJob:
    """One picture of a prompt.

    Attributes:
        prompt: text ids.
        seed: the row's seed.
        sampling: how codes are chosen; its own seed is 0.
        high: draw the high resolution, too.
        format: of the encoded picture: PNG, JPEG or WEBP.
        num_partial: unfinished pictures to send meanwhile.
        tells: send codes as they are chosen.
    """

    prompt: list[int]
    seed: int
    sampling: Sampling
    high: bool
    format: str = "PNG"
    num_partial: int = 0
    tells: bool = False


@dataclass(frozen=True)
class CaptionJob:
    """The caption of an uploaded picture, in `language`. `content` is the file."""

    content: bytes
    language: str
    max_ids: int
    seed: int
    sampling: Sampling
    tells: bool = False


@dataclass(frozen=True)
class DocumentJob:
    """An illustrated document that begins with the text ids `prompt`."""

    prompt: list[int]
    max_pictures: int
    max_text_ids: int
    seed: int
    sampling: Sampling
    tells: bool = False


Reason = Literal["stop", "length"]
Job = PictureJob | CaptionJob | DocumentJob


@dataclass(frozen=True)
class Codes:
    """Codes of a picture, from number `start` of the job's codes on."""

    start: int
    codes: list[int]


@dataclass(frozen=True)
class Text:
    """More text of a caption or a document."""

    text: str


@dataclass(frozen=True)
class PictureMade:
    """An encoded picture. `codes` are all of its base codes, `high_codes` those of its high resolution.

    `partial` numbers unfinished pictures; None for the finished one.
    """

    content: bytes
    codes: list[int]
    high_codes: list[int] | None = None
    partial: int | None = None


@dataclass(frozen=True)
class Ended:
    """The end of a job.

    Attributes:
        num_ids: generated ids and codes.
        reason: `length` if a limit ended it.
        since_first_s: seconds since its first code or text id.
    """

    num_ids: int
    reason: Reason = "stop"
    since_first_s: float = 0.0


@dataclass(frozen=True)
class Refused:
    """The job cannot be done: its upload is no picture within the limits."""

    why: str


Event = Codes | Text | PictureMade | Ended | Refused
