"""CPU time is measured over pictures that were done, however fast the machine is and whenever it reports."""

from collections.abc import Sequence

import pytest

from tokenization.job.scaling_benchmark import Mark, Window


@pytest.mark.parametrize(
    ("reports", "images", "seconds"),
    [
        ([0, 100, 200, 500, 800, 1000], 600, 2),
        ([0, 100, 250, 1000, 1000], 750, 1),
        ([0, 100, 850, 1000], 750, 1),
        ([0, 100, 1000], 900, 1),
        ([0, 1000], 1000, 1),
    ],
)
def test_the_window_has_pictures_between_its_shares_or_from_the_report_before(
    reports: Sequence[int], images: int, seconds: int
) -> None:
    now = 0.0

    def read() -> Mark:
        return Mark(now, 3 * now, {"writers": 2 * now}, now, 3 * now)

    window = Window(read, 1000)
    for done in reports:
        window.report(done)
        now += 1
    assert window.measured() == (images, seconds, {"writers": 2 * seconds, "driver": 3 * seconds})
