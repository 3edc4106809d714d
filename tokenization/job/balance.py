"""Says after a job's first minute whether readers or encoders are short, and which numbers would balance them."""

import math
import time

from tokenization.job.writer import News

MEASURED_S = 60.0
"""Seconds from the first pictures on that are measured."""
EVEN = 1.25
"""Up to this ratio of what both can do nothing is to be changed."""


class Balance:
    """Measures how long a reader and an encoder take for a picture.

    Args:
        num_readers, num_encoders: the most that the job has of them.
    """

    def __init__(self, num_readers: int, num_encoders: int) -> None:
        self._num_readers, self._num_encoders = num_readers, num_encoders
        self._rows, self._read_s, self._encode_s = 0, 0.0, 0.0
        self._began = math.inf

    def add(self, news: News) -> None:
        """Adds what has come to a writer."""
        if news.rows and self._began == math.inf:
            self._began = time.monotonic()
        self._rows += news.rows
        self._read_s += news.read_s
        self._encode_s += news.encode_s

    def verdict(self) -> str:
        """A line once the time is over; empty before."""
        if time.monotonic() < self._began + MEASURED_S or not self._read_s or not self._encode_s:
            return ""
        return verdict_of(self._rows / self._read_s, self._rows / self._encode_s, self._num_readers, self._num_encoders)


def verdict_of(reader_rate: float, encoder_rate: float, num_readers: int, num_encoders: int) -> str:
    """What to change, if anything.

    Args:
        reader_rate, encoder_rate: pictures a second of one reader and of one encoder.
        num_readers, num_encoders: the most that the job has of them.
    """
    decoded, encoded = num_readers * reader_rate, num_encoders * encoder_rate
    measured = (
        f"a reader makes {reader_rate:,.0f} pictures/s and an encoder takes {encoder_rate:,.0f}, so "
        f"{_count(num_readers, 'reader')} could make {decoded:,.0f} and {_count(num_encoders, 'encoder')} take "
        f"{encoded:,.0f}"
    )
    readers, encoders = math.ceil(encoded / reader_rate), math.ceil(decoded / encoder_rate)
    if decoded * EVEN < encoded:
        fewer = max(1, math.floor(decoded / encoder_rate))
        return f"decoding is short: {measured}; --readers {readers} would feed all, or --encoders {fewer} would do"
    if encoded * EVEN < decoded:
        return f"encoding is short: {measured}; --encoders {encoders} would take all, or --readers {readers} would do"
    return f"decoding and encoding are even: {measured}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
