"""Sends rows of the shards that this node reads to other nodes, by Arrow Flight."""

import hmac
import json
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from pipeline.data.token_reader import TokenReader
from pipeline.errors import InputError

NO_PROXY = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
"""Options of gRPC: nodes reach each other directly, although a job's environment may name a proxy."""


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

    def ticket(self) -> flight.Ticket:
        return flight.Ticket(json.dumps(asdict(self)).encode())


class RowServer(flight.FlightServerBase):
    """Answers requests for rows in threads, until `shutdown`.

    Args:
        address: the address of this node that the others reach, IPv4 or IPv6; the port is chosen by the system.
        secret: the job's secret.
        readers: the readers of the sources.
    """

    def __init__(self, address: str, secret: str, readers: list[TokenReader]) -> None:
        super().__init__(location(address, 0))
        self._secret, self._readers = secret, readers

    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.RecordBatchStream:
        request = RowRequest(**json.loads(ticket.ticket))
        if not hmac.compare_digest(request.secret.encode(), self._secret.encode()):
            raise flight.FlightUnauthenticatedError("the request has another job's secret")
        try:
            reader = self._readers[request.source]
            table = reader.tables(np.array(request.shards, np.int64), np.array(request.indices, np.int64))
        except InputError as error:  # the other node reads the shard itself, and meets the error itself
            raise flight.FlightServerError(str(error)) from error
        return flight.RecordBatchStream(table)


def location(address: str, port: int) -> str:
    """The location of a server, as Flight writes it."""
    return f"grpc://[{address}]:{port}" if ":" in address else f"grpc://{address}:{port}"


def rows_from(client: flight.FlightClient, request: RowRequest, timeout_s: float) -> pa.Table:
    """Asks a server for rows. Any `flight.FlightError` or `pa.ArrowException` may be raised."""
    table: pa.Table = client.do_get(request.ticket(), flight.FlightCallOptions(timeout=timeout_s)).read_all()
    return table
