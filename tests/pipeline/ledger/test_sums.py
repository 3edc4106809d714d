"""A ledger's days are summed in one way, wherever they are shown."""

import pandas as pd

from pipeline.ledger.sums import days_unit, sums_by


def test_sums_keep_the_order_in_which_jobs_came() -> None:
    rows = [("tokenize", "CPU", 1.0, 3), ("train_stage", "A100", 2.0, 4), ("tokenize", "CPU", 0.5, 5)]
    table = pd.DataFrame(rows, columns=["job", "gpu_model", "gpu_days", "samples"])
    sums = sums_by(table, ["job", "gpu_model"], ["gpu_days", "samples"])
    assert sums.to_dict("records") == [
        {"job": "tokenize", "gpu_model": "CPU", "gpu_days": 1.5, "samples": 8},
        {"job": "train_stage", "gpu_model": "A100", "gpu_days": 2.0, "samples": 4},
    ]
    assert sums_by(sums, ["gpu_model"], ["gpu_days"])["gpu_days"].tolist() == [1.5, 2.0]


def test_days_without_a_gpu_are_cpu_days() -> None:
    assert (days_unit("CPU"), days_unit("A100-80GB")) == ("CPU-days", "A100-80GB GPU-days")
