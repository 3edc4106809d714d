"""Filters over rows: pandas queries, in which a number that is kept as text compares like a number.

Which columns are numbers, the query says: those that it compares with a number. A value of theirs that is no number
counts as missing. Those that it compares with a text, or uses by `.str`, are texts, whatever type a part of the rows
has: a file of rows whose values happen to be digits, or missing, is filtered like any other.
"""

import ast
import re
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from tokenization.errors import InputError

INCOMPARABLE = "(rows)"
"""Counted beside the columns with values that are no numbers: rows to which a query cannot be applied."""

_PARTS = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`[^`]*`|[&|@]""")
"""Texts, quoted names and operators, as pandas' queries have them beside Python's expressions."""

TEXT = pd.StringDtype(na_value=np.nan)

TRUTHS = {"true": True, "false": False, "1": True, "0": False}
"""Texts that a csv has for True and False, in lower case."""

_METHODS = ("between", "gt", "ge", "lt", "le", "eq", "ne", "isin")
"""Methods of a column that compare it."""


def compared_with(where: str, kinds: tuple[type, ...]) -> set[str]:
    """Names of the columns that a query compares with constants of these types, or with lists of them."""
    return set().union(*(one.columns for one in _comparisons(where) if one.has_constant(kinds)))


def with_numbers(frame: pd.DataFrame, where: str, unchanged: Container[str] = ()) -> tuple[pd.DataFrame, Counter[str]]:
    """Converts the columns that the query compares with numbers, or with columns of numbers, to numbers.

    Args:
        frame: the rows.
        where: a pandas query.
        unchanged: names of columns that stay as they are.

    Returns:
        The frame, and by column how many values are not numbers.
    """
    lost: Counter[str] = Counter()
    known = {str(name) for name in frame if frame[name].dtype.kind in "iuf"}
    compared = [one for one in _comparisons(where) if one.has_constant((int, float)) or one.columns & known]
    for name in sorted(set().union(*(one.columns for one in compared))):
        if name in frame and name not in unchanged and frame[name].dtype.kind not in "biufcmM":
            texts = frame[name].map(_bare)
            numbers = pd.to_numeric(texts, errors="coerce")
            frame = frame.assign(**{name: numbers})
            if count := int((texts.notna() & numbers.isna()).sum()):
                lost[name] = count
    return _with_truths(frame, where, unchanged, lost)


def _with_truths(
    frame: pd.DataFrame, where: str, unchanged: Container[str], lost: Counter[str]
) -> tuple[pd.DataFrame, Counter[str]]:
    """Converts texts that the query compares with True or False."""
    for name in sorted(compared_with(where, (bool,))):
        if name in frame and name not in unchanged and frame[name].dtype.kind not in "biufcmM":
            values = frame[name].map(_bare)
            truths = values.map(lambda value: TRUTHS.get(value.lower()) if isinstance(value, str) else value)
            frame = frame.assign(**{name: truths.astype(object)})
            if count := int((values.notna() & truths.isna()).sum()):
                lost[name] += count
    return frame, lost


def with_texts(frame: pd.DataFrame, where: str, unchanged: Container[str] = ()) -> pd.DataFrame:
    """Makes texts of the values that the query compares with texts or uses by `.str`, and with numbers nowhere. Of a
    missing one, `.str.contains` and the like are false.

    Args:
        frame, where, unchanged: see `with_numbers`.
    """
    texts = (compared_with(where, (str,)) | used_as_texts(where)) - compared_with(where, (int, float))
    for name in sorted(texts):
        if name in frame and name not in unchanged and frame[name].dtype.kind not in "mM":
            frame = frame.assign(**{name: frame[name].astype(object).map(_text).astype(TEXT)})
    return frame


def used_as_texts(where: str) -> set[str]:
    """Names of the columns that a query uses by `.str`."""
    tree, quoted = _parsed(where)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "str"]
    return {quoted.get(name, name) for node in nodes for name in _names(node.value)}


def non_number_messages(not_numbers: Mapping[str, int], setting: str) -> list[str]:
    """A message for each column that has values which are no numbers, where `setting` compares it with one."""
    found = []
    for column, count in not_numbers.items():
        if column == INCOMPARABLE:
            found.append(f"{count} rows have values that {setting} cannot compare; they do not match it")
        else:
            values = f"{count} values of {column!r} are not numbers"
            found.append(f"{values}, but {setting} compares it with one; they count as missing")
    return found


def query_rows(frame: pd.DataFrame, where: str) -> list[int]:
    """Indices of the rows that match a pandas query.

    Raises:
        InputError: the query is invalid, or compares values that cannot be compared.
        UndefinedVariableError: pandas' error for a missing column.
    """
    try:
        return [int(index) for index in matching(frame, where).index]
    except pd.errors.UndefinedVariableError:
        raise
    except Exception as error:  # the query's own operations can raise any exception
        raise InputError(f"hr_where {where!r} cannot be applied: {type(error).__name__}: {error}") from error


def matching(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows that match a pandas query.

    Raises:
        TypeError: the query gives something other than true or false for each row, as the name of a column of numbers
            does, which pandas would take for the numbers of rows; or it asks if a time is a text, which pandas denies
            whatever they are.
        Exception: the query cannot be applied.
    """
    if name := next(
        (name for name in sorted(_equal_texts(where)) if name in frame and frame[name].dtype.kind == "M"), ""
    ):
        raise TypeError(f"{name!r} has times, which compare with texts by <, <=, > and >= alone")
    found = frame.eval(where, engine="python")
    if isinstance(found, pd.Series) and found.dtype == object and found.map(lambda each: isinstance(each, bool)).all():
        found = found.astype(bool)
    if not isinstance(found, pd.Series) or not pd.api.types.is_bool_dtype(found):
        raise TypeError("it is not true or false for each row; compare the column with a value")
    return frame.loc[found]


def _bare(value: object) -> object:
    """A text without the white space around it, and without the quotes that it has in a column of mixed types."""
    if not isinstance(value, str):
        return value
    return value.strip().strip('"').strip() or None


def _text(value: object) -> object:
    """A value as text; None where it is missing. A whole number that pandas holds as 5.0 is "5", as its file has it."""
    if isinstance(value, str):
        return value
    if value is None or value is pd.NA or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@dataclass(frozen=True)
class _Comparison:
    """The columns that a comparison concerns, and the expressions on its sides."""

    columns: set[str]
    operands: list[ast.expr]

    def has_constant(self, kinds: tuple[type, ...]) -> bool:
        return any(_is_constant(one, kinds) for one in self.operands)


def _parsed(where: str) -> tuple[ast.AST, dict[str, str]]:
    """A query's expression, empty if it is no query, and the columns whose names it quotes, by their names in it."""
    quoted: dict[str, str] = {}

    def plain(match: re.Match[str]) -> str:
        part = match[0]
        if part.startswith("`"):
            name = f"quoted_{len(quoted)}_"
            quoted[name] = part[1:-1]
            return name
        return {"&": " and ", "|": " or ", "@": ""}.get(part, part)

    try:
        return ast.parse(_PARTS.sub(plain, where).strip(), mode="eval"), quoted
    except (SyntaxError, ValueError):
        return ast.Module([], []), quoted  # pandas says what is wrong


def _comparisons(where: str) -> list[_Comparison]:
    """The comparisons of a query, by an operator or by a method such as `between`."""
    tree, quoted = _parsed(where)
    found: list[list[ast.expr]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            found += map(list, pairwise([node.left, *node.comparators]))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            found.append([node.func.value, *node.args, *(word.value for word in node.keywords)])
    return [
        _Comparison({quoted.get(name, name) for one in operands for name in _names(one)}, operands)
        for operands in found
    ]


def _equal_texts(where: str) -> set[str]:
    """Names of the columns whose values a query compares with texts by `==`, `!=`, `in` or `not in`."""
    tree, quoted = _parsed(where)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for operator, operands in zip(node.ops, pairwise([node.left, *node.comparators]), strict=True):
                is_equality = isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn)
                if is_equality and any(_is_constant(one, (str,)) for one in operands):
                    found |= {quoted.get(name, name) for one in operands for name in _names(one)}
    return found


def _is_constant(node: ast.expr, kinds: tuple[type, ...]) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, kinds) and (bool in kinds or not isinstance(node.value, bool))
    if isinstance(node, ast.UnaryOp):
        return _is_constant(node.operand, kinds)
    if isinstance(node, ast.BinOp):
        return _is_constant(node.left, kinds) or _is_constant(node.right, kinds)
    return isinstance(node, ast.List | ast.Tuple | ast.Set) and any(_is_constant(one, kinds) for one in node.elts)


def _names(node: ast.expr) -> set[str]:
    """The columns that an expression uses, directly or in a computation."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.UnaryOp):
        return _names(node.operand)
    if isinstance(node, ast.BinOp):
        return _names(node.left) | _names(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):  # as in abs(score) > 1
        return {name for one in node.args for name in _names(one)}
    return set()
