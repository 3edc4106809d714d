"""How a worker group's failures reach the loop of attempts."""

import pytest
from ray.exceptions import ActorDiedError

from pipeline.errors import WorkersLostError
from pipeline.launch.ray_train import health_check_s, raising_errors_of_workers


def test_a_lost_controller_of_ray_train_leads_to_another_attempt() -> None:
    with pytest.raises(WorkersLostError, match="controller was lost"), raising_errors_of_workers():
        raise ActorDiedError


def test_an_error_of_our_own_passes_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), raising_errors_of_workers():
        raise ZeroDivisionError


def test_the_controller_of_a_large_group_is_not_kept_busy_by_looking_at_its_workers() -> None:
    assert health_check_s(2) == health_check_s(64) == 0.5
    assert health_check_s(1024) == 8.0
