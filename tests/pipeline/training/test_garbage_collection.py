"""No rank stops for garbage collection while the others wait for it in a layer."""

import gc
import weakref

import pytest

from pipeline.training.garbage_collection import EVERY_STEPS, collected_between_steps


class Node:
    """An object that refers to itself, so that only a collection removes it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.slow
def test_what_steps_leave_behind_is_collected_every_so_many_steps_and_never_in_between() -> None:
    with collected_between_steps() as after_step:
        left = weakref.ref(Node())
        many = [Node() for _ in range(20_000)]  # an automatic collection would have come
        assert left() is not None and len(many) == 20_000
        after_step(EVERY_STEPS - 1)
        assert left() is not None
        after_step(EVERY_STEPS)
        assert left() is None
    assert gc.isenabled() and gc.get_freeze_count() == 0


@pytest.mark.slow
def test_a_training_that_fails_leaves_collection_as_it_was() -> None:
    with pytest.raises(OSError), collected_between_steps():
        raise OSError
    assert gc.isenabled()
