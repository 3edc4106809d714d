"""A metadata.csv that is damaged costs rows, and never joins their captions."""

from pathlib import Path

import pytest

from tokenization.corpora.csv_rows import MAX_LINES
from tokenization.corpora.metadata_tables import csv_rows, jsonl_rows
from tokenization.errors import InputError

ROWS = [f"{number}.png,caption {number}" for number in range(6)]


def captions(path: Path, lines: list[str]) -> list[str]:
    """The captions of a table of these lines, and `#` with the line's number for a message."""
    path.write_text("\n".join(["file_name,text", *lines]))
    return [row["text"] if isinstance(row, dict) else f"#{number}" for number, row in csv_rows(path)]


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ('2.png,"never closed', {2: "#4"}),
        ('2.png,"closed by a later row', {2: "#4"}),
        ('2.png,"two", "fields', {2: "#4"}),
        ('2.png,say "hi"', {2: 'say "hi"'}),
        ('2.png,"a ""b"" c"', {2: 'a "b" c'}),
        ('2.png,"two\nlines, of one row"', {2: "two\nlines, of one row"}),
        ("2.png", {2: "#4"}),
        ("", {2: ""}),
    ],
)
def test_an_open_quote_costs_its_row_alone(tmp_path: Path, line: str, changed: dict[int, str]) -> None:
    rows = [*ROWS[:2], line, *ROWS[3:]]
    if "later" in line:
        rows[4] = '4.png,"caption 4"'
        rows[5] = '5.png,caption 5"'
    expected = [f"caption {number}" for number in range(6)]
    expected[2] = changed[2]
    if "later" in line:
        expected[5] = 'caption 5"'
    found = captions(tmp_path / "metadata.csv", rows)
    assert found == [one for one in expected if one]


def test_spaces_around_the_names_of_columns_are_no_part_of_them(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name, text \n1.png, a cat\n")
    assert [row for _, row in csv_rows(tmp_path / "metadata.csv")] == [{"file_name": "1.png", "text": " a cat"}]


def test_rows_that_a_quote_swallows_whole_are_told_and_read(tmp_path: Path) -> None:
    """It closes at the end of a later row, so that no parser finds a fault."""
    rows = [*ROWS[:1], '1.png,"open', *ROWS[2:4], '4.png,closed"', *ROWS[5:]]
    found = captions(tmp_path / "metadata.csv", rows)
    assert found == ["caption 0", "#3", "caption 2", "caption 3", 'closed"', "caption 5"]


def test_a_row_of_too_many_lines_is_told(tmp_path: Path) -> None:
    rows = ['0.png,"open', *["a line"] * MAX_LINES, '"', "1.png,one"]
    found = captions(tmp_path / "metadata.csv", rows)
    assert found[0] == "#2" and found[-1] == "one" and len(found) == MAX_LINES + 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_name,text\n0.png,a\n".encode("utf-16"), "is a text in UTF-16; save it as UTF-8"),
        ("file_name,text\n0.png,a\n".encode("utf-16-be"), "is a text in UTF-16; save it as UTF-8"),
        (b"file_name,text,text\n0.png,a,b\n", "has the column 'text' twice; rename one of them"),
        (b'"file_name,text\n0.png,a\n', "its first line: the row cannot be read.*is a quote not closed"),
        (b"", "has no column file_name; it is an empty file"),
        (b"name,text\n0.png,a\n", r"has no column file_name; its columns are \['name', 'text'\]"),
    ],
)
def test_a_table_that_cannot_be_read_right_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "metadata.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(csv_rows(path))


def test_rows_of_json_lines_that_say_two_things_or_have_no_end_are_told(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(b'{"a": 1, "a": 2}\n{"a": "' + b"x" * 16_000_000 + b'"}\n{"b": {"a": 1, "a": 1}}\n{"a": 1}')
    found = [row if isinstance(row, dict) else f"#{number} {row}" for number, row in jsonl_rows(path)]
    assert found == [
        "#1 the name 'a' is there twice",
        "#2 the row has more than 16000000 bytes",
        "#3 the name 'a' is there twice",
        {"a": 1},
    ]
    path.write_bytes('{"a": 1}\n'.encode("utf-16"))
    with pytest.raises(InputError, match=r"metadata\.jsonl is a text in UTF-16"):
        list(jsonl_rows(path))
