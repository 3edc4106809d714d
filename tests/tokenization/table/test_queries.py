"""A number that is kept as text compares like a number, and what is no number is missing and counted."""

import pandas as pd
import pytest

from tokenization.errors import InputError
from tokenization.table.queries import (
    INCOMPARABLE,
    compared_with,
    non_number_messages,
    query_rows,
    with_numbers,
    with_texts,
)


@pytest.mark.parametrize(
    ("where", "numbers", "texts"),
    [
        ("score >= 6", {"score"}, set()),
        ("6 <= score < 7.5", {"score"}, set()),
        ("score > -1 and not width < 2", {"score", "width"}, set()),
        ("score >= 6 & lang == 'en'", {"score"}, {"lang"}),
        ("lang == 'en' | (score / 2 > width)", {"score", "width"}, {"lang"}),
        ("`my score` >= 6 and `my score` < 8", {"my score"}, set()),
        ("year in [2001, 2002] and lang not in ('en', \"6 & 7\")", {"year"}, {"lang"}),
        ("width * height > 100", {"width", "height"}, set()),
        ("width > height", set(), set()),
        ("score.between(6, 7) or score.ge(lowest)", {"score"}, set()),
        ("year.isin([2001]) and lang.isin(['en'])", {"year"}, {"lang"}),
        ("abs(score) > 1 and sqrt(width * height) > 2", {"score", "width", "height"}, set()),
        ("caption.str.len() > 5", set(), set()),
        ("flag == True", set(), set()),
        ("score >> = 6", set(), set()),
        ("", set(), set()),
    ],
)
def test_a_query_says_which_columns_are_numbers(where: str, numbers: set[str], texts: set[str]) -> None:
    assert compared_with(where, (int, float)) == numbers
    assert compared_with(where, (str,)) == texts


@pytest.mark.parametrize(
    ("values", "rows", "lost"),
    [
        ([6.5, 4, 7], [0, 2], 0),
        (["6.5", "4", " 7 "], [0, 2], 0),
        (["6.1", None, "n/a"], [0], 1),
        (["n/a", "?", None], [], 2),
        ([None, None, None], [], 0),
        (["", " ", "6e0"], [2], 0),
        (['"6.5"', "7", '"n/a"'], [0, 1], 1),
        ([2**80, "8", -(2**80)], [0, 1], 0),
        ([True, "inf", "x" * 10_000], [1], 1),
    ],
)
def test_a_value_that_is_no_number_costs_its_row_alone(values: list, rows: list[int], lost: int) -> None:
    frame, not_numbers = with_numbers(pd.DataFrame({"score": values, "name": list("abc")}), "score >= 6")
    assert query_rows(frame, "score >= 6") == rows
    assert not_numbers.total() == lost and frame["name"].tolist() == list("abc")


def test_columns_of_the_table_and_texts_stay_as_they_are() -> None:
    rows = pd.DataFrame({"sample_id": ["1", "2"], "grade": ["5", "6"]})
    frame, lost = with_numbers(rows, "sample_id > 1 and grade == '5'", unchanged=["sample_id"])
    assert frame.equals(rows) and not lost
    assert query_rows(frame, "grade == '5'") == [0]


def test_large_whole_numbers_keep_all_digits() -> None:
    frame, _ = with_numbers(pd.DataFrame({"id": ["9007199254740993", "9007199254740992"]}), "id == 9007199254740993")
    assert query_rows(frame, "id == 9007199254740993") == [0]


def test_a_text_that_is_compared_with_a_column_of_numbers_is_a_number() -> None:
    rows = pd.DataFrame(
        {"score": ["6.5", "n/a", "3"], "least": [6, 6, 6], "name": ["6", "7", "8"], "other": list("678")}
    )
    frame, lost = with_numbers(rows, "score > least and name == other")
    assert query_rows(frame, "score > least and name == other") == [0] and lost == {"score": 1}
    assert frame["name"].tolist() == ["6", "7", "8"]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("name.str.len() > 2", [0, 3]),
        ("name.str.startswith('2')", [0]),
        ("name.str.contains('b')", [3]),
        ("not name.str.contains('b')", [0, 1, 2]),
        ("name.str.lower() == 'abc'", [3]),
        ("name >= '3'", [1, 3]),
        ("name == '5'", [1]),
        ("name in ['5', '2001']", [0, 1]),
        ("`name` != '5'", [0, 2, 3]),
    ],
)
def test_a_column_of_texts_is_one_in_every_part_of_the_rows(where: str, rows: list[int]) -> None:
    """A chunk may have nothing but digits or nothing but missing values."""
    values: list = [2001, 5, None, "abc"]
    for parts in ([values], [[value] for value in values], [values[:2], values[2:]], [values[:3], values[3:]]):
        matched: list[int] = []
        for part in parts:
            frame = with_texts(pd.DataFrame({"name": part}), where)
            matched += [values.index(part[place]) for place in query_rows(frame, where)]
        assert matched == rows, parts


def test_rows_that_cannot_be_compared_are_told() -> None:
    assert non_number_messages({INCOMPARABLE: 3}, "hr_where") == [
        "3 rows have values that hr_where cannot compare; they do not match it"
    ]


def test_true_and_false_that_are_kept_as_text_select_as_such() -> None:
    frame = pd.DataFrame({"nsfw": ["True", "false", None, "maybe", "0"]})
    for where, rows in (("nsfw == False", [1, 4]), ("nsfw != True", [1, 2, 3, 4]), ("nsfw == True", [0])):
        converted, lost = with_numbers(frame, where)
        assert query_rows(converted, where) == rows
        assert lost == {"nsfw": 1}, "what is neither is told"


def test_a_query_that_is_not_true_or_false_for_each_row_is_refused() -> None:
    """pandas would take a number for the number of a row."""
    for where in ("score", "score + 1", "name"):
        with pytest.raises(InputError, match="it is not true or false for each row; compare the column with a value"):
            query_rows(pd.DataFrame({"score": [1, 0], "name": ["a", "b"]}), where)
    assert query_rows(pd.DataFrame({"good": [True, False]}), "good") == [0]
    assert query_rows(pd.DataFrame({"good": pd.array([True, None], "boolean")}), "good") == [0]


@pytest.mark.parametrize("where", ["taken == '2021-01-01'", "id > 0 and taken in ['2021-01-01']", "`taken` != '2021'"])
def test_a_time_that_is_to_be_a_text_is_refused_and_not_denied(where: str) -> None:
    """pandas finds no time equal to any text, and says nothing."""
    frame = pd.DataFrame({"id": [1, 2], "taken": pd.to_datetime(["2021-01-01", "2022-01-01"])})
    with pytest.raises(InputError, match="'taken' has times, which compare with texts by <, <=, > and >= alone"):
        query_rows(frame, where)
    assert query_rows(frame, "taken >= '2021-01-01' and taken < '2021-01-02'") == [0]
