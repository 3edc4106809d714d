"""What the processes of tokenization import: a node has many readers and writers, and each pays for its imports."""

import json
import subprocess
import sys

import pytest

from tests.support.checkout import CHECKOUT

SHOWN = "import json, sys, tokenization.job.{module}; print(json.dumps(sorted(sys.modules)))"


@pytest.mark.parametrize("module", ["reader", "writer"])
def test_readers_and_writers_import_no_torch(module: str) -> None:
    """With torch, each would take four seconds of CPU to start, and 300 MB more of memory."""
    words = [sys.executable, "-c", SHOWN.format(module=module)]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "deepspeed"} & set(json.loads(done.stdout))
