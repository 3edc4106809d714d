"""Keeps a server's model the newest one. What cannot be taken over is said once; the old one goes on."""

import time
from collections.abc import Callable

from pipeline.errors import InputError, OutageError
from pipeline.runtime.terminal import say, say_error
from pipeline.serving.model_source import ModelSource
from pipeline.serving.served_model import ServedModel

LONGEST_PAUSE_S = 60.0
"""Seconds between two looks after many that failed, unless the usual pause is longer."""


class ReplicaLostError(RuntimeError):
    """A replica ended while it loaded a model. The same model is not tried again: it may end each replica."""


def first_line(error: BaseException) -> str:
    """An error in one line, with its kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def follow(
    source: ModelSource,
    served: ServedModel,
    take_over: Callable[[ServedModel], None],
    pause_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Takes over each newer model, for ever.

    Args:
        source: finds the newest model.
        served: the model that is served.
        take_over: makes the server serve another model, or raises an exception and leaves the old one.
        pause_s: seconds between two looks. After failures it grows.
        sleep: waits.
    """
    said, next_s, given_up = "", pause_s, served
    while True:
        sleep(next_s)
        try:
            newest = source()
            if newest not in (served, given_up):
                take_over(newest)
                served = given_up = newest
                say(f"serve: takes over checkpoint {served.source}")
            said, next_s = "", pause_s
            continue
        except ReplicaLostError as error:
            given_up, why = newest, f"{error}; waits for another checkpoint"
        except (InputError, OutageError) as error:
            why = f"{error}; tries again"
        except Exception as error:  # whatever it is, who is served must not lose the server to it
            why = f"{first_line(error)}; tries again"
        next_s = max(pause_s, min(2 * next_s, LONGEST_PAUSE_S))
        if why != said:
            say_error(f"serve: no newer model can be taken over: {why}; {served.source} goes on")
        said = why
