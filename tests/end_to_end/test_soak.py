"""Tokenization and training at once while everything that can fail does: `make soak`, in a form of three minutes."""

import pytest

from tests.support.soak.bucket import Settings
from tests.support.soak.faults import ACTORS
from tests.support.soak.run import soak

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


def test_a_short_soak_ends_with_the_tokens_and_weights_of_an_undisturbed_run_and_leaves_nothing() -> None:
    result = soak(Settings(minutes=3.0, seed=1))
    assert result["passed"], result
    assert result["faults_by_kind"].keys() >= {"restart head", "lose node", "kill driver", "bucket outage", "full disk"}
    assert sum(f"kill {name}" in result["faults_by_kind"] for name in ACTORS) >= 4, result["faults_by_kind"]
