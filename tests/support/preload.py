"""What the forkserver imports before it forks ranks: all that a training needs, also what DeepSpeed and transformers
import at their first use. A rank would spend seconds on it."""

import gc

import tests.support.ranks  # noqa: F401

gc.freeze()  # a collection in a rank passes over what was imported, and copies no page of it
