"""A run on a large corpus never generates all of it because no prompt was given."""

import numpy as np

from pipeline.data.row_index import RowIndex
from pipeline.evaluation.samples import some_of


def test_some_rows_are_taken_at_equal_distances_from_all_shards() -> None:
    index = RowIndex.of(["a", "b", "c"], [np.arange(0, 200, 2), np.zeros(0, np.int64), np.arange(7, 407)])
    some = some_of(index, 6)
    assert some.shards == ["a", "c"] and some.counts.sum() == 6
    # of 500 rows the places 0, 99, 199, 299, 399 and 499
    assert some.rows(0).tolist() == [0, 198] and some.rows(1).tolist() == [106, 206, 306, 406]
    assert some_of(index, 500) is index
