"""The joint vocabulary of text ids, VQ codes and picture borders, and the ids that are allowed in each state.

Layout: `0 .. V-1` text, `V .. V+C-1` codes, then six borders (three opener and closer pairs) and two
reserved rows; V = 151,936 and C = 8,192 give the paper's total of 160,136.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Ids = TypeVar("Ids", "np.ndarray", "Tensor")

NUM_BORDERS = 6
NUM_RESERVED = 2
NORMALISATIONS = ("state", "joint")
"""The ids over which a label's probability sums to one: those its state allows, or (as in the paper's figure) all."""


class Role(Enum):
    """The role of a picture in a sequence. The value is the index of its pair among the borders."""

    BASE = 0
    HIGH_1 = 1
    HIGH_2 = 2


class State(Enum):
    """The state of a sequence, which decides the ids allowed next. After a picture's last code only its closer can
    come, which needs no state."""

    TEXT = "text"
    CODES = "codes"


@dataclass(frozen=True)
class Allowed:
    """The ids that a state allows: the whole text vocabulary or none of it, then evenly spaced rows of the visual head.
    Logits have this order."""

    num_text: int
    first_visual_id: int
    visual_rows: slice

    def places(self, ids: Ids) -> Ids:
        """The indices of allowed joint ids among the logits."""
        visual = self.num_text + (ids - self.first_visual_id) // (self.visual_rows.step or 1)
        is_text = ids < self.num_text
        places: Ids = ids * is_text + visual * ~is_text
        return places

    def ids(self, places: Ids) -> Ids:
        """The reverse of `places`."""
        visual = self.first_visual_id + (places - self.num_text) * (self.visual_rows.step or 1)
        is_text = places < self.num_text
        ids: Ids = places * is_text + visual * ~is_text
        return ids


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
        """The ids that may come next: the loss normalises over them and decoding samples from them.

        In text: any text id, or an opener (every second border row). In a picture: any code. None: every id.
        """
        if state is None:
            num_text, rows = self.text_vocab_size, slice(0, self.num_visual)
        elif state is State.TEXT:
            num_text, rows = self.text_vocab_size, slice(self.codebook_size, self.codebook_size + NUM_BORDERS, 2)
        else:
            num_text, rows = 0, slice(0, self.codebook_size)
        return Allowed(num_text, self.code_offset + rows.start, rows)
