"""The nodes that share the feed, and the connections to their servers."""

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from pipeline.data.feed_server import NO_PROXY

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Nodes:
    """The nodes that share the feed.

    Attributes:
        number: number of this node.
        locations: the nodes' servers, by number; see `feed_server.location`.
        secret: the job's secret.
    """

    number: int
    locations: Sequence[str]
    secret: str

    def reading(self, shards: np.ndarray) -> np.ndarray:
        """The number of the node that reads each shard. Training takes shards in random order, so nodes read alike."""
        return shards % len(self.locations)

    def planning(self, step: int) -> int:
        """The number of the node that plans a step."""
        return step % len(self.locations)


class Peers:
    """The other nodes. Those that do not answer once are not asked again.

    Args:
        nodes: the nodes.
    """

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self._clients: dict[int, flight.FlightClient] = {}
        self._lost: set[int] = set()
        self._lock = threading.Lock()

    def is_lost(self, node: int) -> bool:
        return node in self._lost

    def are_read_here(self, shards: np.ndarray) -> np.ndarray:
        """True for each shard of this node, or of one that does not answer, bool [n]."""
        with self._lock:
            read_here = [self.nodes.number, *self._lost]
        return np.isin(self.nodes.reading(shards), read_here)

    def ask(self, node: int, question: Callable[[flight.FlightClient], Answer]) -> Answer | None:
        """Asks a node's server; None if it does not answer, or with nonsense."""
        try:
            return question(self._client(node))
        except (flight.FlightError, pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
            self._lose(node, str(error).partition("\n")[0])
            return None

    def close(self) -> None:
        """Closes all connections."""
        for client in self._clients.values():
            client.close()

    def _client(self, node: int) -> flight.FlightClient:
        with self._lock:
            if node not in self._clients:
                self._clients[node] = flight.FlightClient(self.nodes.locations[node], generic_options=NO_PROXY)
            return self._clients[node]

    def _lose(self, node: int, why: str) -> None:
        with self._lock:
            if node in self._lost:
                return
            self._lost.add(node)
        place = self.nodes.locations[node]
        print(
            f"the node at {place} sends no rows ({why}); its shards are read and its steps planned here",
            file=sys.stderr,
        )
