"""What a server measures of itself, as Prometheus metrics through Ray, which prefixes their names with `ray_`."""

import time
from typing import Protocol

from ray.util.metrics import Counter, Gauge, Histogram

from pipeline.serving.jobs import CaptionJob, Ended, Event, Job, PictureJob

SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200]


class Figures(Protocol):
    """Gets what is measured of requests."""

    def outstanding(self, count: int) -> None:
        """Jobs that wait or run."""

    def refused(self) -> None:
        """A request was refused with 429."""

    def first(self, kind: str, seconds: float) -> None:
        """The seconds to the first code or text id of a job."""

    def made(self, kind: str, seconds: float) -> None:
        """A picture, or a whole caption or document, has come."""


class Silent:
    """Keeps nothing, for servers without Ray."""

    def outstanding(self, count: int) -> None: ...
    def refused(self) -> None: ...
    def first(self, kind: str, seconds: float) -> None: ...
    def made(self, kind: str, seconds: float) -> None: ...


class FrontMetrics:
    """Metrics of the front. Every metric has the tag `model`; those of jobs also `kind`."""

    def __init__(self, model: str) -> None:
        tags = {"model": model}
        self._outstanding = Gauge("mars_serve_outstanding", "Jobs that wait or run", ("model",))
        self._refused = Counter("mars_serve_refused", "Requests that were refused with 429", ("model",))
        keys = ("kind", "model")
        self._made = Counter("mars_serve_made", "Pictures, captions and documents that were answered", keys)
        self._first = Histogram("mars_serve_first_s", "Seconds to the first code or letter", SECONDS, keys)
        self._whole = Histogram("mars_serve_whole_s", "Seconds to the picture, caption or document", SECONDS, keys)
        for metric in (self._outstanding, self._refused, self._made, self._first, self._whole):
            metric.set_default_tags(tags)

    def outstanding(self, count: int) -> None:
        self._outstanding.set(count)

    def refused(self) -> None:
        self._refused.inc()

    def first(self, kind: str, seconds: float) -> None:
        self._first.observe(seconds, {"kind": kind})

    def made(self, kind: str, seconds: float) -> None:
        self._made.inc(1, {"kind": kind})
        self._whole.observe(seconds, {"kind": kind})


class ReplicaMetrics:
    """Metrics of a replica, with the tags `model` and `replica`."""

    def __init__(self, model: str, replica: str) -> None:
        names = {
            "mars_serve_waiting": "Rows that wait in the replica",
            "mars_serve_rows": "Rows that are drawn in the replica",
            "mars_serve_batch_fill": "Rows of a pass over those that it has room for, mean of the last seconds",
        }
        self._gauges = {name: Gauge(name, what, ("model", "replica")) for name, what in names.items()}
        for gauge in self._gauges.values():
            gauge.set_default_tags({"model": model, "replica": replica})

    def show(self, waiting: int, rows: int, fill: float) -> None:
        values = {"mars_serve_waiting": waiting, "mars_serve_rows": rows, "mars_serve_batch_fill": fill}
        for name, value in values.items():
            self._gauges[name].set(value)


class Measured:
    """Times one job."""

    def __init__(self, figures: Figures, job: Job) -> None:
        self._figures, self._began = figures, time.monotonic()
        kinds = {PictureJob: "picture", CaptionJob: "caption"}
        self._kind = kinds.get(type(job), "document")

    def event(self, event: Event) -> None:
        """Takes note of an event."""
        if isinstance(event, Ended):
            took = time.monotonic() - self._began
            self._figures.first(self._kind, took - event.since_first_s)
            self._figures.made(self._kind, took)
