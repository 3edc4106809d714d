"""Imports what ranks need, once, in the process that they are forked from."""

import gc

import deepspeed  # noqa: F401

import pipeline.benchmarks.throttled.rank  # noqa: F401

gc.freeze()  # a collection in a rank skips imported objects, and copies no page of them
