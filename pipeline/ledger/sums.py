"""Sums over a ledger's table."""

from collections.abc import Sequence

import pandas as pd


def sums_by(table: pd.DataFrame, names: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """The sums of `columns` for each combination of `names`, in the order in which they first occur."""
    return table.groupby(list(names), sort=False)[list(columns)].sum().reset_index()


def days_unit(gpu_model: str) -> str:
    """The unit of `gpu_days`: CPU-days where no GPU was held."""
    return "CPU-days" if gpu_model == "CPU" else f"{gpu_model} GPU-days"
