"""The CPU time of a tokenization's driver and writers is measured, with encoders that answer at once."""

import json
import subprocess
import sys

import pytest

from tests.support.checkout import CHECKOUT


@pytest.mark.slow
def test_the_ceiling_of_the_driver_is_measured() -> None:
    words = ["jobs/benchmark.py", "tokenize", "--null-encoder", "--null-encoders", "2", "--null-rows", "20000"]
    words += ["--null-shard-rows", "1000", "--json"]
    done = subprocess.run([sys.executable, *words], cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    [one] = figures["by_encoders"].values()
    assert one["images_per_s"] > 0 and one["writers_us_per_image"] > 0
    assert figures["ceiling_images_per_s"] == one["ceiling_images_per_s"] > 0
    assert figures["driver_busy_per_10k_images_per_s"] == one["driver_busy_per_10k_images_per_s"]
