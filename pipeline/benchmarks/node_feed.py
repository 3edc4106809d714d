"""Measures the feed of one node of a simulated cluster: the real loader process, and a process that plays the others.

The other nodes ask the measured node for rows of its shards and for their parts of the steps that it plans, as they
would in training, and send it theirs. One epoch is fed, so that every node has read its share of the shards.
"""

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.flight as flight

from pipeline.benchmarks.random_tokens import FeedBenchmark, inputs_of, write_shard
from pipeline.data.batch_plan import StagePlan
from pipeline.data.feed_server import NO_PROXY, FeedServer, PartRequest, RowRequest, location, part_from, rows_from
from pipeline.data.loader import ProcessLoader
from pipeline.data.packed_step import PackedStep, StepPart
from pipeline.data.peers import Nodes
from pipeline.data.plan_inputs import PlanInputs
from pipeline.data.row_exchange import chunk_steps
from pipeline.data.row_index import RowIndex
from pipeline.data.row_lengths import ReadLengths, read_lengths, store_row_lengths
from pipeline.data.step_parts import PartPlanner
from pipeline.data.token_reader import TokenReader
from pipeline.runtime.process_memory import peak_bytes_of
from pipeline.runtime.rank import Rank
from tokenization.table.token_table import MANIFEST_FILE

RANKS_PER_NODE = 8
HERE, ANSWER_S = "127.0.0.1", 60.0
WARM_CHUNKS = 2
"""Chunks of steps that do not count: connections are made, and sequence lengths are met for the first time."""
COUNTED_CHUNKS = 2
"""Least chunks that count."""
SHARD_ROWS = 8192
"""Rows of a shard, about as many as a tar of pictures has."""


@dataclass(frozen=True)
class Cluster:
    """A simulated cluster of `ranks` ranks, of which the measured node is number 0."""

    ranks: int

    @property
    def ranks_per_node(self) -> int:
        return min(RANKS_PER_NODE, self.ranks)

    @property
    def nodes(self) -> int:
        return -(-self.ranks // self.ranks_per_node)

    @property
    def chunk_steps(self) -> int:
        """Steps whose rows nodes ask for at once."""
        return chunk_steps(self.nodes)

    def ranks_of(self, node: int) -> range:
        """The ranks of a node."""
        return range(node * self.ranks_per_node, min((node + 1) * self.ranks_per_node, self.ranks))


def measure_node_feed(benchmark: FeedBenchmark, index_rows: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Feeds an epoch to one node of a cluster of `benchmark.world_size` ranks, and starts in an index of `index_rows`.

    Returns:
        `cpu_s_a_step`: CPU seconds of the loader process, a rank and step; `plan_cpu_s_a_step`: those of planning and
        packing a step, which one node does for all; `fetched_over_own_bytes`: bytes read from storage over those of
        the rows that the node trained on; `start_s`, `peak_rss_bytes`: seconds from the plan's making to the first step
        at a random place of the large index, and the process's peak memory; `peak_rss_fed_bytes`: that while it is fed.
    """
    cluster, stage = Cluster(benchmark.world_size), benchmark.stage
    least_steps = (WARM_CHUNKS + COUNTED_CHUNKS) * cluster.chunk_steps
    least = -(-least_steps * stage.global_batch_size // SHARD_ROWS)
    shards = max(cluster.nodes, 2 * stage.window_shards, least)
    steps = shards * SHARD_ROWS // stage.global_batch_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report(f"writes {shards} shards of {SHARD_ROWS:,} rows")
        row_bytes = _write_corpus(folder / "tokens", shards, benchmark)
        inputs = inputs_of(str(folder / "tokens"), benchmark)
        inputs = _in_files(inputs, inputs.sources[0].index, folder, read_lengths)
        report(f"feeds {steps} steps to one of {cluster.nodes} nodes")
        fed = _feed(inputs, cluster, steps)
    with tempfile.TemporaryDirectory() as name:
        report(f"starts in an index of {index_rows:,} rows")
        started = _start(benchmark, cluster, Path(name), index_rows)
    own_bytes = steps * stage.global_batch_size / cluster.nodes * row_bytes
    return {
        "ranks": cluster.ranks,
        "samples_a_step": stage.global_batch_size,
        "steps": steps,
        "cpu_s_a_step": fed["cpu_s_a_step"] / cluster.ranks_per_node,
        "plan_cpu_s_a_step": fed["plan_cpu_s_a_step"],
        "bytes_a_step": fed["read_bytes"] / steps / cluster.ranks_per_node,
        "fetched_over_own_bytes": fed["read_bytes"] / own_bytes,
        "peak_rss_fed_bytes": fed["peak_rss_bytes"],
        **started,
    }


def _write_corpus(tokens: Path, shards: int, benchmark: FeedBenchmark) -> float:
    """Writes one shard under many names. Returns its bytes a row."""
    tokens.mkdir()
    first = tokens / "000000.parquet"
    write_shard(first, replace(benchmark, shard_rows=SHARD_ROWS))
    for number in range(1, shards):
        os.link(first, tokens / f"{number:06d}.parquet")
    (tokens / MANIFEST_FILE).write_text("{}")
    return first.stat().st_size / SHARD_ROWS


def _in_files(inputs: PlanInputs, index: RowIndex, folder: Path, read: ReadLengths) -> PlanInputs:
    """The inputs with this index and its lengths in files, as the workers of a stage get them."""
    (source,) = inputs.sources
    index.write(folder / "rows.arrow", b"")
    mapped = RowIndex.mapped(folder / "rows.arrow")
    store_row_lengths(folder / "lengths.arrow", source.tokens, mapped, read)
    return replace(inputs, sources=(replace(source, index=mapped, lengths=folder / "lengths.arrow"),))


@contextmanager
def _node(inputs: PlanInputs, cluster: Cluster) -> Iterator[tuple[list[ProcessLoader], "_Others"]]:
    """The loaders of the measured node's ranks, which share one process, and the other nodes. The process has imported
    everything, and has not begun."""
    size, name = cluster.ranks_per_node, f"mars-benchmark-{secrets.token_hex(8)}"
    loaders = [ProcessLoader(inputs.plan, Rank(rank, cluster.ranks, rank, size), name) for rank in range(size)]
    others = _Others(inputs.plan(), cluster)
    try:
        loaders[0].begin()
        yield loaders, others
    finally:
        for loader in reversed(loaders):
            loader.close()
        others.server.shutdown()


def _feed(inputs: PlanInputs, cluster: Cluster, steps: int) -> dict[str, float]:
    """Feeds the steps to the measured node. Returns what its process took in each, after the first ones, and what it
    read and held in all."""
    warm_steps = WARM_CHUNKS * cluster.chunk_steps
    with _node(inputs, cluster) as (loaders, others):
        process = psutil.Process(loaders[0].process_id)
        others.share_with(loaders[0])
        plan_cpu_s = others.plan(steps)
        _, read_bytes = _used(process)
        for step in range(steps):
            if step == warm_steps:
                cpu_s, _ = _used(process)
            if step % cluster.chunk_steps == 0:
                others.ask(step // cluster.chunk_steps)
            for loader in loaders:
                loader.step(step)
        used, read = _used(process)
        peak_bytes = peak_bytes_of(process.pid)
    counted = steps - warm_steps
    return {
        "cpu_s_a_step": (used - cpu_s) / counted,
        "plan_cpu_s_a_step": plan_cpu_s,
        "read_bytes": read - read_bytes,
        "peak_rss_bytes": peak_bytes,
    }


class _Others:
    """The other nodes: they send rows and parts of steps to the measured one, and ask it for some."""

    def __init__(self, plan: StagePlan, cluster: Cluster) -> None:
        self._plan, self._cluster, self._secret = plan, cluster, secrets.token_hex(16)
        readers = [reader for reader in plan.readers if isinstance(reader, TokenReader)]
        self._planner = _Planned(PartPlanner(replace(plan), cluster.ranks))
        self.server = FeedServer(HERE, self._secret, readers, self._planner)
        self._nodes: Nodes | None = None
        self._row_requests: dict[int, list[RowRequest]] = {}

    def share_with(self, loader: ProcessLoader) -> None:
        """Lets the measured node share the feed with these, if there are any."""
        if self._cluster.nodes > 1:
            theirs = [location(HERE, self.server.port)] * (self._cluster.nodes - 1)
            self._nodes = Nodes(0, [loader.serve(HERE, self._secret), *theirs], self._secret)
            loader.share(self._nodes)

    def plan(self, steps: int) -> float:
        """Plans so many steps. It is done before the measured node begins, since the other nodes take nothing from its
        CPUs. Returns the CPU seconds of planning and packing a step."""
        plan_cpu_s, chunks = 0.0, -(-steps // self._cluster.chunk_steps)
        for chunk in range(chunks):
            started = time.process_time()
            packed = {step: self._plan.pack(step, self._cluster.ranks) for step in self._steps_of(chunk)}
            plan_cpu_s += time.process_time() - started
            own = tuple(self._cluster.ranks_of(0))
            self._planner.parts.update({step: each.part(own) for step, each in packed.items()})
            self._row_requests[chunk] = [
                request for node in self._nodes_but_one if (request := self._row_request(node, list(packed.values())))
            ]
        return plan_cpu_s / (chunks * self._cluster.chunk_steps)

    def ask(self, chunk: int) -> None:
        """Asks for what all nodes need in a chunk of steps: their parts of the steps that the measured node plans, and
        rows of its shards."""
        if not self._nodes:
            return
        client = flight.FlightClient(self._nodes.locations[0], generic_options=NO_PROXY)
        for step in self._steps_of(chunk):
            if self._nodes.planning(step) == 0:
                for node in self._nodes_but_one:
                    part_from(client, PartRequest(self._secret, step, list(self._cluster.ranks_of(node))), ANSWER_S)
        for request in self._row_requests[chunk]:
            rows_from(client, request, ANSWER_S)

    @property
    def _nodes_but_one(self) -> range:
        return range(1, self._cluster.nodes)

    def _steps_of(self, chunk: int) -> range:
        return range(chunk * self._cluster.chunk_steps, (chunk + 1) * self._cluster.chunk_steps)

    def _row_request(self, node: int, packed: list[PackedStep]) -> RowRequest | None:
        """What a node asks the measured one for in these steps, if anything."""
        assert self._nodes
        samples = np.concatenate([each.part(self._cluster.ranks_of(node)).samples for each in packed])
        samples = np.unique(samples[self._nodes.reading(samples[:, 1]) == 0], axis=0)
        return RowRequest(self._secret, 0, samples[:, 1].tolist(), samples[:, 2].tolist()) if len(samples) else None


@dataclass(frozen=True)
class _Planned:
    """Parts of steps that were planned before, all for the same ranks. Others are planned when they are asked for."""

    planner: PartPlanner
    parts: dict[int, StepPart] = field(default_factory=dict)

    def part(self, step: int, ranks: tuple[int, ...]) -> StepPart:
        return self.parts.get(step) or self.planner.part(step, ranks)


def _used(process: psutil.Process) -> tuple[float, int]:
    """CPU seconds of a process, and bytes that it has read from files."""
    times = process.cpu_times()
    return times.user + times.system, process.io_counters().read_chars


def _start(benchmark: FeedBenchmark, cluster: Cluster, folder: Path, rows: int) -> dict[str, float]:
    """Starts the node at a random step in an index of so many rows: one shard under many names."""
    shards = -(-rows // SHARD_ROWS)
    _write_corpus(folder / "tokens", 1, benchmark)
    inputs = inputs_of(str(folder / "tokens"), benchmark)
    (source,) = inputs.sources
    lengths = next(iter(read_lengths(source.tokens, source.index)))
    index = RowIndex.of([source.index.shard(0)] * shards, [np.arange(SHARD_ROWS)] * shards)
    inputs = _in_files(inputs, index, folder, lambda tokens, index: (lengths for _ in range(shards)))
    step = int(np.random.default_rng(0).integers(rows // inputs.stage.global_batch_size))
    with _node(inputs, cluster) as (loaders, others):
        started = time.monotonic()
        others.share_with(loaders[0])
        loaders[0].step(step)
        start_s = time.monotonic() - started
        assert loaders[0].process_id
        return {"index_rows": rows, "start_s": start_s, "peak_rss_bytes": peak_bytes_of(loaders[0].process_id)}
