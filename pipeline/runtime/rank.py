"""A process's rank in its group."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """A process's rank in its group. The ranks of a machine follow each other.

    Attributes:
        rank, world_size: rank and size of the whole group.
        local_rank, local_world_size: the same on its machine.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @property
    def first_on_node(self) -> int:
        """The first rank of its machine."""
        return self.rank - self.local_rank

    @property
    def on_node(self) -> range:
        """All ranks of its machine."""
        return range(self.first_on_node, self.first_on_node + self.local_world_size)


ONLY_RANK = Rank(rank=0, world_size=1, local_rank=0, local_world_size=1)
