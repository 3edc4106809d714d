"""The nodes of a cluster share the feed. Each shard is read from storage by one node, which sends the rows that others
train on. Each step is planned by one node, which sends the others their parts. If a node does not answer, the others do
its work themselves.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.data.batch_plan import StagePlan
from pipeline.data.feed_server import PartRequest, RowRequest, part_from, rows_from
from pipeline.data.packed_step import StepPart
from pipeline.data.peers import Peers
from pipeline.data.rows import Row
from pipeline.data.sample_lengths import SampleLengths
from pipeline.data.step_parts import Planner
from pipeline.data.token_reader import START, TokenReader
from pipeline.errors import InputError, OutageError

CHUNK_STEPS, FIRST_STEPS = 16, 4
"""Steps whose rows are asked for at once by few nodes: a request costs about a millisecond, however few rows it is for.
Those of the first chunk are asked for in parts, so that the first step does not wait for all of them."""
NODES_A_CHUNK, MOST_CHUNK_STEPS = 16, 128
"""More nodes than this ask for the rows of more steps at once: each of them has fewer rows of a step."""
ANSWER_S = 60.0
"""Seconds that another node gets to answer. It may have to fetch a shard first."""
REQUESTS_AT_ONCE = 16


Answer = tuple[int, np.ndarray, np.ndarray, pa.Table]
"""Source, shards and indices of samples that another node sent, and their rows; see `TokenReader.tables`."""


@dataclass(frozen=True)
class Received:
    """Samples that other nodes sent.

    Attributes:
        tables: the rows of each source. Samples are found faster in one table than in one from each node.
        rows: where each sample begins in its source's table, by source, shard and index.
    """

    tables: dict[int, pa.Table] = field(default_factory=dict)
    rows: dict[tuple[int, int, int], int] = field(default_factory=dict)

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> "Received":
        """Those of some answers."""
        received = cls()
        for source in {each[0] for each in answers}:
            keys, tables = list[tuple[int, int, int]](), list[pa.Table]()
            for _, shards, indices, table in (each for each in answers if each[0] == source):
                keys += [(source, shard, index) for shard, index in zip(shards.tolist(), indices.tolist(), strict=True)]
                tables.append(table)
            table = pa.concat_tables(tables).combine_chunks()
            starts = np.flatnonzero(table[START].to_numpy()).tolist()
            received.tables[source] = table.drop_columns([START])
            received.rows.update(zip(keys, starts, strict=True))
        return received


@dataclass
class ReceivedChunks:
    """Samples of other nodes by the steps that they are for."""

    chunks: dict[range, Received] = field(default_factory=dict)

    def find(self, source: int, shard: int, index: int) -> tuple[pa.Table, int] | None:
        """The table with a sample, and the row in which it begins."""
        key = (source, shard, index)
        return next(
            ((chunk.tables[source], chunk.rows[key]) for chunk in self.chunks.values() if key in chunk.rows), None
        )


@dataclass(frozen=True)
class SharedReader:
    """Reads samples of one source as `TokenReader` does, except those that another node has sent.

    Attributes:
        source: number of the source.
        own: reads from storage.
        peers: the other nodes.
        received: what other nodes have sent.
    """

    source: int
    own: TokenReader
    peers: Peers
    received: ReceivedChunks

    def row(self, shard: int, index: int) -> Row:
        found = self.received.find(self.source, shard, index)
        return self.own.sample(*found, shard) if found else self.own.row(shard, index)

    def lengths(self, shards: np.ndarray, indices: np.ndarray) -> SampleLengths:
        return self.own.lengths(shards, indices)

    def sample_ids(self, shards: np.ndarray, indices: np.ndarray) -> list[str]:
        return self.own.sample_ids(shards, indices)

    def ahead(self, shards: list[int]) -> None:
        """Starts to fetch those of the shards that this node reads."""
        numbers = np.array(shards, np.int64)
        self.own.ahead(numbers[self.peers.are_read_here(numbers)].tolist())


def chunk_steps(num_nodes: int) -> int:
    """The steps whose rows are asked for at once, a power of two."""
    steps = CHUNK_STEPS
    while steps < MOST_CHUNK_STEPS and num_nodes > NODES_A_CHUNK * steps // CHUNK_STEPS:
        steps *= 2
    return steps


def held_parts(num_nodes: int) -> int:
    """The steps of which a plan keeps what the node's ranks train on: three chunks and one more. When a chunk is
    planned, that before the last one was used more recently than the last one."""
    return 3 * chunk_steps(num_nodes) + 1


@dataclass(frozen=True)
class PartExchange:
    """Gets this node's parts of steps from the nodes that plan them.

    Attributes:
        planner: plans the steps of this node, and those of nodes that do not answer.
        peers: the other nodes.
    """

    planner: Planner
    peers: Peers

    def part(self, step: int, ranks: tuple[int, ...], world_size: int) -> StepPart:
        """What these ranks train on in a step."""
        nodes = self.peers.nodes
        node = nodes.planning(step)
        if node != nodes.number and not self.peers.is_lost(node):
            request = PartRequest(nodes.secret, step, list(ranks))
            part = self.peers.ask(node, lambda client: part_from(client, request, ANSWER_S))
            if part:
                return part
        return self.planner.part(step, ranks)


def held_steps(num_nodes: int) -> int:
    """The whole steps that a node keeps which plans them: its share of two chunks. Nodes may be a chunk apart."""
    return 2 * -(-chunk_steps(num_nodes) // num_nodes)


class RowExchange:
    """Gets the rows of other nodes' shards that this node's ranks train on, one chunk of steps ahead.

    Args:
        plan: has the steps.
        peers: the other nodes.
        ranks: this node's ranks.
        world_size: number of all ranks.
        received: receives the rows.
    """

    def __init__(
        self, plan: StagePlan, peers: Peers, ranks: Sequence[int], world_size: int, received: ReceivedChunks
    ) -> None:
        self._plan, self._peers, self._ranks, self._world_size = plan, peers, tuple(ranks), world_size
        self._received, self._chunk_steps = received, chunk_steps(len(peers.nodes.locations))
        self._requests = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="rows")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="chunks")
        self._coming: dict[range, Future[Received]] = {}
        self._first: int | None = None

    def prepare(self, step: int) -> None:
        """Waits until the rows of the step are here, and asks for those of the next chunk, unless the step is its
        chunk's first one: another rank may be a step behind, and need the chunk before."""
        self._first = step if self._first is None else min(self._first, step)
        chunk = self._chunk_of(step)
        following = self._chunk_of(step + len(chunk) - 1)
        for each in (chunk, following):
            if each not in self._coming:
                wanted = range(max(self._first, each.start), each.stop)
                self._coming[each] = self._ahead.submit(self._rows_of, wanted)
        self._received.chunks[chunk] = self._coming[chunk].result()
        for old in [each for each in self._coming if each.stop < step]:
            del self._coming[old]
            self._received.chunks.pop(old, None)

    def _chunk_of(self, step: int) -> range:
        """The steps whose rows come together with those of a step."""
        assert self._first is not None
        is_first = step // self._chunk_steps == self._first // self._chunk_steps
        size = FIRST_STEPS if is_first else self._chunk_steps
        return range(step - step % size, step - step % size + size)

    def close(self) -> None:
        """Waits for the requests that are under way."""
        for pool in (self._ahead, self._requests):
            pool.shutdown(cancel_futures=True)
        self._peers.close()

    def _rows_of(self, steps: range) -> Received:
        """The rows of some steps that other nodes read."""
        for step in steps:
            for reader, shards in zip(self._plan.readers, self._plan.order.near(step), strict=True):
                reader.ahead(shards)
        own = list(self._requests.map(self._samples_of, steps))
        samples = np.unique(np.concatenate(own), axis=0)  # sorted by source and shard
        nodes = self._peers.nodes
        reading = nodes.reading(samples[:, 1])
        answers = []
        for node in np.unique(reading).tolist():
            if node != nodes.number and not self._peers.is_lost(node):
                of_node = samples[reading == node]
                for source in np.unique(of_node[:, 0]).tolist():
                    wanted = of_node[of_node[:, 0] == source]
                    answers.append(self._requests.submit(self._ask, node, source, wanted[:, 1], wanted[:, 2]))
        return Received.of([answer for future in answers if (answer := future.result())])

    def _samples_of(self, step: int) -> np.ndarray:
        """The samples of a step that this node's ranks train on; none if it cannot be planned. It fails when a rank
        asks for it: the stage may end before it."""
        try:
            return self._plan.part(step, self._ranks, self._world_size).samples
        except (InputError, OutageError):
            return np.zeros((0, 3), np.int64)

    def _ask(self, node: int, source: int, shards: np.ndarray, indices: np.ndarray) -> Answer | None:
        request = RowRequest(self._peers.nodes.secret, source, shards.tolist(), indices.tolist())
        table = self._peers.ask(node, lambda client: rows_from(client, request, ANSWER_S))
        return None if table is None else (source, shards, indices, table)
