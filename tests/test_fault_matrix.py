"""The table of faults in docs/reliability.md is what the tests try."""

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.fault_matrix import FAULTS, PAGE, with_table


def test_the_page_shows_the_faults_as_the_tests_try_them() -> None:
    page = PAGE.read_text()
    assert page == with_table(page), "run `python -m tests.support.fault_matrix`"


@pytest.mark.parametrize("key", FAULTS)
def test_every_row_of_the_table_is_run_by_the_test_that_it_names(key: str) -> None:
    fault = FAULTS[key]
    assert f'cells("{key}"' in (CHECKOUT / "tests" / fault.test).read_text()
    missing = [job for job in fault.jobs if not (CHECKOUT / "jobs" / f"{job}.py").exists()]
    assert fault.jobs and not missing
