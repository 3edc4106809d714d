"""Python's garbage collection while a stage trains: at the same steps on all ranks, and never in between.

An automatic collection comes at any time, and stops the thread that launches kernels. All ranks wait for each other in
every layer, so each of them would wait for every other one's collections. What a step leaves behind has no tensors: it
holds no memory of the device.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_STEPS = 100
"""Steps between two collections. A step of 32 layers leaves some hundred small objects behind."""
GENERATION = 1
"""Objects that survived a collection live as long as the training, and are not looked at again."""


@contextmanager
def collected_between_steps() -> Iterator[Callable[[int], None]]:
    """Yields a function that is called after each step with its number, and collects if it is time to. Objects that are
    there already are not looked at."""

    def after(step: int) -> None:
        if step % EVERY_STEPS == 0:
            gc.collect(GENERATION)

    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield after
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
