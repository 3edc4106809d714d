"""The joint vocabulary of text ids, VQ codes and picture borders, and what may come next in each state.

Layout: `0 .. V-1` text, `V .. V+C-1` codes, then six borders (three opener and closer pairs) and two
reserved rows; V = 151,936 and C = 8,192 give the paper's total of 160,136.
"""

from dataclasses import dataclass
from enum import Enum

IGNORE_INDEX = -100
NUM_BORDERS = 6
NUM_RESERVED = 2


class Role(Enum):
    """What a picture in a sequence is for. The value is the pair's place among the borders."""

    BASE = 0
    HIGH_1 = 1
    HIGH_2 = 2


class State(Enum):
    """What the sequence so far allows next. After a picture's last code only its closer can come: no state."""

    TEXT = "text"
    CODES = "codes"


@dataclass(frozen=True)
class Allowed:
    """The ids a state allows: the whole text vocabulary or none of it, and rows of the visual head."""

    text: bool
    visual_rows: slice


@dataclass(frozen=True)
class JointVocabulary:
    """Id arithmetic of the joint vocabulary. Every id at or above `text_vocab_size` is visual."""

    text_vocab_size: int = 151_936
    codebook_size: int = 8_192

    @property
    def code_offset(self) -> int:
        """The id of code 0."""
        return self.text_vocab_size

    @property
    def num_visual(self) -> int:
        """Rows of the visual embedding and of the visual head: codes, borders, reserved."""
        return self.codebook_size + NUM_BORDERS + NUM_RESERVED

    @property
    def size(self) -> int:
        """All rows, the reserved ones included."""
        return self.text_vocab_size + self.num_visual

    def opener(self, role: Role) -> int:
        """The id that opens a picture of this role: `<img>`, `<img_h1>`, `<img_h2>`."""
        return self.code_offset + self.codebook_size + 2 * role.value

    def closer(self, role: Role) -> int:
        """The id that closes a picture of this role."""
        return self.opener(role) + 1

    def allowed(self, state: State | None) -> Allowed:
        """What may come next: the loss normalises over it and decoding samples from it.

        In text: any text id, or an opener (every second border row). In a picture: any code. None: every id.
        """
        if state is None:
            return Allowed(text=True, visual_rows=slice(0, self.num_visual))
        if state is State.TEXT:
            borders = slice(self.codebook_size, self.codebook_size + NUM_BORDERS, 2)
            return Allowed(text=True, visual_rows=borders)
        return Allowed(text=False, visual_rows=slice(0, self.codebook_size))
