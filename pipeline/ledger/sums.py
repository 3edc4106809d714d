"""Sums over the table of a ledger."""

from collections.abc import Sequence

import pandas as pd


def sums_by(table: pd.DataFrame, names: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Sums `columns` for each combination of `names`, in order of first occurrence."""
    return table.groupby(list(names), sort=False)[list(columns)].sum().reset_index()


def days_unit(gpu_model: str) -> str:
    """Returns the unit of `gpu_days`: CPU-days if no GPU was held."""
    return "CPU-days" if gpu_model == "CPU" else f"{gpu_model} GPU-days"
