"""What a storage has in it."""

from typing import NamedTuple


class Listing(NamedTuple):
    """The files of a folder, as relative names, both sorted.

    Attributes:
        names: all files without hidden and incomplete ones.
        others: those, and whatever else has a name there, such as devices.
    """

    names: list[str]
    others: list[str]
