"""What a rank tells the process that builds its samples."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.data.node_feed import MakePlan
from pipeline.data.peers import Nodes


@dataclass(frozen=True)
class Begin:
    """The first rank of the node says what the process is for; see `NodeFeed`."""

    make_plan: MakePlan
    ranks: Sequence[int]
    world_size: int


@dataclass(frozen=True)
class Serve:
    """Asks for the location of the feed's server, which starts; see `NodeFeed.serve`."""

    address: str
    secret: str


@dataclass(frozen=True)
class StepRequest:
    """Asks for a rank's part of a step."""

    number: int
    rank: int


Message = Begin | Serve | Nodes | StepRequest
