"""Nodes that share the reading train on the same samples as nodes that read everything, and read each shard once."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from pipeline.data import feed_server, row_exchange
from pipeline.data.batch_plan import StagePlan
from pipeline.data.feed_server import FeedServer, PartRequest, RowRequest, location, part_from, rows_from
from pipeline.data.node_feed import NodeFeed
from pipeline.data.packed_step import PackedStep
from pipeline.data.peers import Nodes, Peers
from pipeline.data.plan_inputs import PlanInputs
from pipeline.data.row_exchange import CHUNK_STEPS, MOST_CHUNK_STEPS, Received, RowExchange, chunk_steps
from pipeline.data.row_index import SourceRows
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.data.step_parts import PartPlanner, from_message, to_message
from pipeline.data.token_reader import TokenReader
from pipeline.errors import InputError
from tests.support.built_steps import assert_equal, builder
from tests.support.tokens import STAGE, write_documents, write_tokens

NODES, RANKS_PER_NODE, STEPS = 3, 2, 20
WORLD = NODES * RANKS_PER_NODE
HERE, SECRET = "127.0.0.1", "s3cret"


@pytest.fixture
def inputs(tmp_path: Path) -> PlanInputs:
    """Pictures and interleaved documents: a document has several rows."""
    write_tokens(tmp_path / "pictures", shards=11, rows=20)
    for number in range(4):
        write_documents(tmp_path / "documents" / str(number))
    (tmp_path / "documents" / "manifest.json").write_text("{}")
    stage = replace(STAGE, window_shards=3, global_batch_size=24)
    sources = tuple(
        SourceRows(name, tmp_path / name, build_row_index(RowSelection(tmp_path / name)), weight)
        for name, weight in (("pictures", 0.75), ("documents", 0.25))
    )
    return PlanInputs(stage, 1, 0, sources, builder())


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Node and name of each shard that is read from storage."""
    found: list[tuple[int, str]] = []
    really = TokenReader._read

    def counted(self: TokenReader, shard: int) -> tuple[pa.Table, object]:
        found.append((id(self), f"{self._storage}/{self._index.shard(shard)}"))
        return really(self, shard)

    monkeypatch.setattr(TokenReader, "_read", counted)
    return found


@pytest.fixture
def feeds(inputs: PlanInputs) -> Iterator[list[NodeFeed]]:
    """The feeds of three nodes that share the reading."""
    made = [
        NodeFeed(inputs.plan, range(node * RANKS_PER_NODE, (node + 1) * RANKS_PER_NODE), WORLD) for node in range(NODES)
    ]
    places = [feed.serve(HERE, SECRET) for feed in made]
    for node, feed in enumerate(made):
        feed.share(Nodes(node, places, SECRET))
    yield made
    for feed in made:
        feed.close()


def assert_same_steps(feeds: list[NodeFeed], plan: StagePlan, steps: range) -> None:
    for number in steps:
        for rank in range(WORLD):
            assert_equal(feeds[rank // RANKS_PER_NODE].step(number, rank), plan.arrays(number, rank, WORLD))


@pytest.mark.slow
def test_each_node_gets_the_rows_that_it_trains_on_and_reads_its_own_shards_alone(
    inputs: PlanInputs, feeds: list[NodeFeed], read: list[tuple[int, str]]
) -> None:
    plan = inputs.plan()
    expected = [[plan.arrays(number, rank, WORLD) for rank in range(WORLD)] for number in range(STEPS)]
    read.clear()
    for number in range(STEPS):
        for rank in range(WORLD):
            assert_equal(feeds[rank // RANKS_PER_NODE].step(number, rank), expected[number][rank])
    readers = Counter(name for _, name in set(read))
    assert len(readers) == 15 and set(readers.values()) == {1}, "each shard is read by one node"


def test_many_nodes_ask_for_more_steps_at_once() -> None:
    assert [chunk_steps(nodes) for nodes in (1, 16, 17, 64, 128, 1000)] == [16, 16, 32, 64, 128, 128]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each step that is planned and packed."""
    found: list[int] = []
    really = StagePlan.pack

    def counted(self: StagePlan, step: int, world_size: int) -> PackedStep:
        found.append(step)
        return really(self, step, world_size)

    monkeypatch.setattr(StagePlan, "pack", counted)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [CHUNK_STEPS, MOST_CHUNK_STEPS])
def test_a_node_plans_a_step_once(
    inputs: PlanInputs, monkeypatch: pytest.MonkeyPatch, chunk: int, planned: list[int]
) -> None:
    """It asks for a step's rows long before it builds the step."""
    monkeypatch.setattr(row_exchange, "chunk_steps", lambda num_nodes: chunk)
    feed = NodeFeed(inputs.plan, range(RANKS_PER_NODE), RANKS_PER_NODE * 2)
    places = [feed.serve(HERE, SECRET), location(HERE, 1)]  # nothing listens at the second one
    feed.share(Nodes(0, places, SECRET))
    for number in range(3 * chunk + 1):
        for rank in range(RANKS_PER_NODE):
            feed.step(number, rank)
    feed.close()
    assert max(Counter(planned).values()) == 1


@pytest.mark.slow
def test_each_step_is_planned_by_one_node(feeds: list[NodeFeed], planned: list[int]) -> None:
    for number in range(CHUNK_STEPS):
        for feed in feeds:
            feed.step(number, feeds.index(feed) * RANKS_PER_NODE)
    assert set(Counter(planned).values()) == {1} and set(planned) >= set(range(CHUNK_STEPS))


def test_a_part_of_a_step_is_sent_as_it_is(inputs: PlanInputs) -> None:
    for step in range(STEPS):
        part = PartPlanner(inputs.plan(), WORLD).part(step, (1, 4))
        sent = from_message(to_message(part))
        for name in ("numbers", "samples", "label_counts"):
            assert np.array_equal(getattr(sent, name), getattr(part, name))
        for name, values in vars(part.planned).items():
            received = getattr(sent.planned, name)
            assert np.array_equal(received, values) and received.dtype.kind == values.dtype.kind, name
        assert (sent.num_samples, sent.samples_sha256) == (part.num_samples, part.samples_sha256)
        assert [kind for kind, _ in sent.kinds] == [kind for kind, _ in part.kinds]
        for (_, sent_rows), (_, planned_rows) in zip(sent.kinds, part.kinds, strict=True):
            assert as_lists(sent_rows) == as_lists(planned_rows) and set(sent_rows) == {1, 4}


def as_lists(by_rank: dict[int, list[list[np.ndarray]]]) -> dict[int, list[list[list[int]]]]:
    return {rank: [[row.tolist() for row in rows] for rows in micro_steps] for rank, micro_steps in by_rank.items()}


@pytest.mark.slow
def test_a_node_that_is_gone_costs_the_others_its_reading_and_nothing_else(
    inputs: PlanInputs, feeds: list[NodeFeed], capsys: pytest.CaptureFixture
) -> None:
    assert_same_steps(feeds, inputs.plan(), range(2))
    feeds[2].close()
    later = range(2 * CHUNK_STEPS, 2 * CHUNK_STEPS + 6)  # the rows of the first two chunks have come before
    assert_same_steps([*feeds[:2], NodeFeed(inputs.plan, range(4, 6), WORLD)], inputs.plan(), later)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all("sends no rows" in line for line in said), "each of the others says so once"


def test_a_damaged_shard_is_the_same_error_on_every_node(inputs: PlanInputs, feeds: list[NodeFeed]) -> None:
    for path in Path(inputs.sources[0].tokens).glob("*.parquet"):
        path.write_bytes(b"not parquet")
    for rank in (0, WORLD - 1):
        with pytest.raises(InputError, match="is no readable parquet"):
            feeds[rank // RANKS_PER_NODE].step(0, rank)


def test_a_step_that_cannot_be_planned_fails_when_it_is_asked_for(
    inputs: PlanInputs, feeds: list[NodeFeed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the rows of its chunk are: the stage may end before it."""
    really = StagePlan.pack

    def packed(self: StagePlan, step: int, world_size: int) -> PackedStep:
        if step == 3:
            raise InputError("no high-resolution codes")
        return really(self, step, world_size)

    monkeypatch.setattr(StagePlan, "pack", packed)
    assert_same_steps(feeds, inputs.plan(), range(3))
    for rank in range(WORLD):
        with pytest.raises(InputError, match="no high-resolution codes"):
            feeds[rank // RANKS_PER_NODE].step(3, rank)


def test_a_rank_that_is_a_step_behind_costs_no_second_request(
    feeds: list[NodeFeed], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[range] = []
    really = RowExchange._rows_of

    def recorded(self: RowExchange, steps: range) -> Received:
        asked.append(steps)
        return really(self, steps)

    monkeypatch.setattr(RowExchange, "_rows_of", recorded)
    for step, rank in ((2, 0), (3, 0), (2, 1), (4, 0), (3, 1), (5, 0), (4, 1), (6, 0)):
        feeds[0].step(step, rank)
    assert feeds[0]._exchange
    for coming in feeds[0]._exchange._coming.values():
        coming.result(30)  # the last one may not have begun
    assert asked == [range(2, 4), range(4, 8), range(8, 12)]


def test_answers_that_make_no_sense_are_none(
    inputs: PlanInputs, feeds: list[NodeFeed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_server, "to_message", lambda part: b"nonsense")
    assert_same_steps(feeds, inputs.plan(), range(2))


def test_rows_that_were_not_asked_for_are_no_answer(
    inputs: PlanInputs, feeds: list[NodeFeed], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = TokenReader.tables
    monkeypatch.setattr(TokenReader, "tables", lambda self, shards, indices: really(self, shards[:1], indices[:1]))
    assert_same_steps(feeds, inputs.plan(), range(2))


def test_shards_of_a_node_that_does_not_answer_are_fetched_ahead_here() -> None:
    peers = Peers(Nodes(1, [location(HERE, 1)] * 3, SECRET))
    assert peers.are_read_here(np.arange(6)).tolist() == [False, True, False] * 2
    assert peers.ask(2, lambda client: part_from(client, PartRequest(SECRET, 0, [0]), 10.0)) is None
    assert peers.are_read_here(np.arange(6)).tolist() == [False, True, True] * 2


def test_nobody_without_the_jobs_secret_gets_rows_or_parts(inputs: PlanInputs) -> None:
    plan = inputs.plan()
    readers = [reader for reader in plan.readers if isinstance(reader, TokenReader)]
    server = FeedServer(HERE, SECRET, readers, PartPlanner(plan, WORLD))
    with server, flight.FlightClient(location(HERE, server.port)) as client:
        assert rows_from(client, RowRequest(SECRET, 0, [0], [1]), 10.0)["sample_id"].to_pylist() == ["00000.tar/0001"]
        assert part_from(client, PartRequest(SECRET, 3, [0, 1]), 10.0).num_samples == 24
        with pytest.raises(flight.FlightUnauthenticatedError):
            rows_from(client, RowRequest("another", 0, [0], [1]), 10.0)
        with pytest.raises(flight.FlightUnauthenticatedError):
            part_from(client, PartRequest("another", 3, [0, 1]), 10.0)
