"""Builds the steps of all ranks of a node: plans them once, and reads a row once for all of them."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.data.batch_plan import StagePlan, StepArrays
from pipeline.data.row_exchange import Nodes, ReceivedChunks, RowExchange, SharedReader, held_parts
from pipeline.data.row_server import RowServer, location
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
        self._server: RowServer | None = None
        self._exchange: RowExchange | None = None

    def step(self, number: int, rank: int) -> StepArrays:
        """Builds a rank's part of a step; see `StagePlan.arrays`."""
        with self._lock:
            plan = self._made_plan()
            if self._exchange:
                self._exchange.prepare(number)
            return plan.arrays(number, rank, self._world_size, self._ranks)

    def serve(self, address: str, secret: str) -> str:
        """Starts to send rows to other nodes, see `RowServer`. Returns the server's location."""
        with self._lock:
            readers = [reader for reader in self._made_plan().readers if isinstance(reader, TokenReader)]
            self._server = RowServer(address, secret, readers)
            return location(address, self._server.port)

    def share(self, nodes: Nodes) -> None:
        """From now on, reads the shards of this node alone, and asks the other nodes for the rows of theirs."""
        with self._lock:
            plan, received = self._made_plan(), ReceivedChunks()
            readers = [
                SharedReader(source, reader, nodes, received)
                for source, reader in enumerate(plan.readers)
                if isinstance(reader, TokenReader)
            ]
            self._plan = replace(plan, readers=readers, held_parts=held_parts(len(nodes.locations)))
            self._exchange = RowExchange(self._plan, nodes, self._ranks, self._world_size, received)

    def close(self) -> None:
        if self._exchange:
            self._exchange.close()
        if self._server:
            self._server.shutdown()
            self._server.wait()

    def _made_plan(self) -> StagePlan:
        self._plan = self._plan or self._make_plan()
        return self._plan
