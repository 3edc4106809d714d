"""A parquet is read in bounded memory, whatever its values and their encoding."""

import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.corpora import corpus_in
from tests.support.corpus_files import problem_of, read_all_of
from tests.support.pictures import noise_png
from tokenization.corpora.parquet_rows import open_parquet, rows_in
from tokenization.errors import InputError


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.slow
def test_a_small_file_of_large_equal_values_takes_one_at_a_time(tmp_path: Path) -> None:
    """A dictionary has the value once: 64 rows of 20 MB are more than a gigabyte."""
    value, path = bytes(20_000_000), tmp_path / "a.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 30), pa.array([value]))
    pq.write_table(pa.table({"image": column}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 5000
    before = peak_bytes()
    with open_parquet(path) as file:
        assert file.schema_arrow.field("image").type == pa.binary()
        assert [len(row["image"]) for row in rows_in(file, 100_000_000)] == [len(value)] * 30
    assert peak_bytes() - before < 250_000_000


def test_a_value_beyond_the_limit_costs_its_row(tmp_path: Path) -> None:
    pictures = [noise_png(0), bytes(2_000_000), noise_png(2), None]
    columns = {"image": pa.array(pictures, pa.binary()), "caption": ["a", "b", "c" * 2_000_000, "d"]}
    for use_dictionary in (True, False):
        pq.write_table(pa.table(columns), tmp_path / "a.parquet", use_dictionary=use_dictionary)
        good, bad, _ = read_all_of(corpus_in(tmp_path, max_bytes=1_000_000))
        assert [sample.key for sample in good] == ["000000000"]
        assert [problem_of(sample)[0] for sample in bad] == ["bad member", "bad metadata", "no picture"]
        assert "2000000 bytes, more than max_bytes 1000000" in problem_of(bad[0])[1]


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_row_group_whose_footer_says_that_it_is_beyond_the_limit_is_not_read(
    tmp_path: Path, use_dictionary: bool
) -> None:
    column = pa.array([bytes(10_000_000)] * 3, pa.binary())
    pq.write_table(
        pa.table({"image": column}), tmp_path / "a.parquet", use_dictionary=use_dictionary, compression="zstd"
    )
    before = peak_bytes()
    _, bad, _ = read_all_of(corpus_in(tmp_path, layout="parquet", max_bytes=1_000_000))
    assert [problem_of(sample) for sample in bad] == [
        ("bad member", "column 'image': it has values of more than 1000000 bytes")
    ] * 3
    assert peak_bytes() - before < 5_000_000


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pictures = pa.array([noise_png(0)], pa.binary())
    table = pa.Table.from_arrays([pictures, pa.array(["a"]), pa.array(["b"])], ["image", "caption", "caption"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="the column 'caption' occurs twice; rename one of them"):
        read_all_of(corpus_in(tmp_path))
