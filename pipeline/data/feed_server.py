"""Sends other nodes rows of the shards that this node reads, and steps that this node plans, by Arrow Flight."""

import hmac
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from pipeline.data.packed_step import StepPart
from pipeline.data.step_parts import Planner, from_message, to_message
from pipeline.data.token_reader import START, TokenReader
from pipeline.errors import InputError

NO_PROXY = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
"""Options of gRPC: nodes reach each other directly, although a job's environment may name a proxy."""
PART = "part"


@dataclass(frozen=True)
class RowRequest:
    """A request for samples.

    Attributes:
        secret: only those who know the job's secret are answered.
        source: number of the source.
        shards, indices: the samples as `TokenReader.tables` gets them.
    """

    secret: str
    source: int
    shards: list[int]
    indices: list[int]


@dataclass(frozen=True)
class PartRequest:
    """A request for what some ranks train on in a step. `secret` is that of `RowRequest`."""

    secret: str
    step: int
    ranks: list[int]


class FeedServer(flight.FlightServerBase):
    """Answers requests in threads, until `shutdown`.

    Args:
        address: the address of this node that the others reach, IPv4 or IPv6; the port is chosen by the system.
        secret: the job's secret.
        readers: the readers of the sources.
        planner: plans steps.
    """

    def __init__(self, address: str, secret: str, readers: list[TokenReader], planner: Planner) -> None:
        super().__init__(location(address, 0))
        self._secret, self._readers, self._planner = secret, readers, planner

    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.RecordBatchStream:
        request = RowRequest(**json.loads(ticket.ticket))
        self._check(request.secret)
        try:
            reader = self._readers[request.source]
            table = reader.tables(np.array(request.shards, np.int64), np.array(request.indices, np.int64))
        except InputError as error:  # the other node reads the shard itself, and meets the error itself
            raise flight.FlightServerError(str(error)) from error
        return flight.RecordBatchStream(table)

    def do_action(self, context: flight.ServerCallContext, action: flight.Action) -> Iterator[bytes]:
        request = PartRequest(**json.loads(action.body.to_pybytes()))
        self._check(request.secret)
        try:
            part = self._planner.part(request.step, tuple(request.ranks))
        except InputError as error:  # likewise
            raise flight.FlightServerError(str(error)) from error
        return iter([to_message(part)])

    def _check(self, secret: str) -> None:
        if not hmac.compare_digest(secret.encode(), self._secret.encode()):
            raise flight.FlightUnauthenticatedError("the request has another job's secret")


def location(address: str, port: int) -> str:
    """The location of a server, as Flight writes it."""
    return f"grpc://[{address}]:{port}" if ":" in address else f"grpc://{address}:{port}"


def rows_from(client: flight.FlightClient, request: RowRequest, timeout_s: float) -> pa.Table:
    """Asks a server for rows. Any `flight.FlightError` or `pa.ArrowException` may be raised, and what reading an
    answer that makes no sense raises."""
    ticket = flight.Ticket(json.dumps(asdict(request)).encode())
    table: pa.Table = client.do_get(ticket, flight.FlightCallOptions(timeout=timeout_s)).read_all()
    if np.count_nonzero(table[START].to_numpy()) != len(request.shards):
        raise pa.ArrowInvalid("these are not the rows that were asked for")
    return table


def part_from(client: flight.FlightClient, request: PartRequest, timeout_s: float) -> StepPart:
    """Asks a server for what some ranks train on. The same errors as of `rows_from` may be raised."""
    action = flight.Action(PART, json.dumps(asdict(request)).encode())
    [result] = client.do_action(action, flight.FlightCallOptions(timeout=timeout_s))
    return from_message(result.body.to_pybytes())
