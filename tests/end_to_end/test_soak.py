"""Tokenization and training at once while everything that can fail does: short forms of `make soak`.

The longer ones: .venv/bin/python -m pytest -m long tests/end_to_end/test_soak.py
"""

from typing import Any, Literal

import pytest

from tests.support.soak.bucket import Settings
from tests.support.soak.faults import ACTORS
from tests.support.soak.run import soak

pytestmark = pytest.mark.timeout(1200)

SHORT_TOLERANCE = 0.05
"""A head that is lost costs the ledgers a heartbeat: of minutes, more than the 1% of an hour."""


def passed(settings: Settings) -> dict[str, int]:
    """Soaks. Returns the number of faults by kind."""
    result: dict[str, Any] = soak(settings)
    assert result["passed"], result
    faults: dict[str, int] = result["faults_by_kind"]
    return faults


@pytest.mark.slow
def test_after_three_minutes_the_tokens_weights_and_ledger_are_those_of_an_undisturbed_run() -> None:
    """From the cluster's start to its end."""
    faults = passed(Settings(minutes=1.1, seed=2, steps=60, shards=6, pause_s=6.0, ledger_tolerance=SHORT_TOLERANCE))
    assert len(faults) >= 5 and faults.keys() & {"restart head", "lose node", "kill driver"}, faults


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_whatever_service_keeps_the_bucket(scheme: Literal["s3", "gs", "az"]) -> None:
    faults = passed(Settings(minutes=3.0, seed=1, scheme=scheme, ledger_tolerance=SHORT_TOLERANCE))
    assert faults.keys() >= {"restart head", "lose node", "kill driver", "bucket outage", "full disk"}
    assert sum(f"kill {name}" in faults for name in ACTORS) >= 4, faults
