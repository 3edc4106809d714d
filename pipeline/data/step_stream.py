"""Sends steps from a process to the one that started it: the arrays' bytes as they are, everything else pickled.

The stream is a socket that no other process can open.
"""

import pickle
import traceback
from typing import Any, BinaryIO

import numpy as np

from pipeline.errors import InputError, OutageError


def send(value: object, stream: BinaryIO) -> None:
    """Writes a value."""
    buffers = list[pickle.PickleBuffer]()
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [buffer.raw() for buffer in buffers]
    pickle.dump((body, [part.nbytes for part in parts]), stream)
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Reads what `send` wrote. The arrays own their memory.

    Raises:
        EOFError: the stream ends before the value does.
    """
    try:
        body, sizes = pickle.load(stream)
    except pickle.UnpicklingError as error:
        raise EOFError from error
    return pickle.loads(body, buffers=[_read(stream, size) for size in sizes])


def _read(stream: BinaryIO, size: int) -> np.ndarray:
    array = np.empty(size, np.uint8)
    if stream.readinto(array) != size:  # type: ignore[attr-defined]
        raise EOFError
    return array


def sendable(error: Exception) -> Exception:
    """The error, with its traceback unless its message says it all; if it cannot be pickled, one with its text."""
    if isinstance(error, InputError | OutageError):
        return error
    text = "".join(traceback.format_exception(error))
    try:
        sent: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # some libraries' errors can be pickled and not read
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(text)
    return sent
