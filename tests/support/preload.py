"""Imports for the forkserver before it forks ranks: everything that a training needs, including what DeepSpeed and
transformers import at first use. Otherwise every rank would spend seconds on it.
"""

import gc

import tests.support.ranks  # noqa: F401

gc.freeze()  # a collection in a rank skips imported objects, and copies no page of them
