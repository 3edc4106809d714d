"""Builds the steps of all ranks of a node: a row is read once for all of them, and a step planned at most once."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.data.batch_plan import StagePlan, StepArrays
from pipeline.data.feed_server import FeedServer, location
from pipeline.data.peers import Nodes, Peers
from pipeline.data.row_exchange import PartExchange, ReceivedChunks, RowExchange, SharedReader, held_parts, held_steps
from pipeline.data.step_parts import PartPlanner
from pipeline.data.token_reader import TokenReader

MakePlan = Callable[[], StagePlan]


class NodeFeed:
    """The feed of a node. Its methods may be called in several threads.

    Args:
        make_plan: makes the plan, when it is first needed.
        ranks: the node's ranks.
        world_size: number of all ranks.
    """

    def __init__(self, make_plan: MakePlan, ranks: Sequence[int], world_size: int) -> None:
        self._make_plan, self._ranks, self._world_size = make_plan, ranks, world_size
        self._lock = threading.Lock()
        self._plan: StagePlan | None = None
        self._planner: PartPlanner | None = None
        self._server: FeedServer | None = None
        self._exchange: RowExchange | None = None

    def step(self, number: int, rank: int) -> StepArrays:
        """Builds a rank's part of a step; see `StagePlan.arrays`."""
        with self._lock:
            plan = self._made_plan()
            if self._exchange:
                self._exchange.prepare(number)
            return plan.arrays(number, rank, self._world_size, self._ranks)

    def serve(self, address: str, secret: str) -> str:
        """Starts to send rows and plans to other nodes, see `FeedServer`. Returns the server's location."""
        with self._lock:
            readers = [reader for reader in self._made_plan().readers if isinstance(reader, TokenReader)]
            num_nodes = -(-self._world_size // len(self._ranks))
            self._planner = PartPlanner(replace(self._made_plan()), self._world_size, held_steps(num_nodes))
            self._server = FeedServer(address, secret, readers, self._planner)
            return location(address, self._server.port)

    def share(self, nodes: Nodes) -> None:
        """From now on, reads the shards and plans the steps of this node alone, and asks the other nodes for theirs.
        `serve` comes before."""
        assert self._planner
        with self._lock:
            plan, received, peers = self._made_plan(), ReceivedChunks(), Peers(nodes)
            readers = [
                SharedReader(source, reader, peers, received)
                for source, reader in enumerate(plan.readers)
                if isinstance(reader, TokenReader)
            ]
            parts = PartExchange(self._planner, peers).part
            self._plan = replace(plan, readers=readers, held_parts=held_parts(len(nodes.locations)), part_source=parts)
            self._exchange = RowExchange(self._plan, peers, self._ranks, self._world_size, received)

    def close(self) -> None:
        if self._exchange:
            self._exchange.close()
        if self._server:
            self._server.shutdown()
            self._server.wait()

    def _made_plan(self) -> StagePlan:
        self._plan = self._plan or self._make_plan()
        return self._plan
