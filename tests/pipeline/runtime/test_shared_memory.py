"""A file in shared memory is removed however the process ends that made it."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.runtime.local_cluster import kill_tree
from tests.support.checkout import CHECKOUT

MAKE = """
import sys, time
from pathlib import Path
from pipeline.runtime.shared_memory import remove_with_this_process
remove_with_this_process(Path(sys.argv[1]))
Path(sys.argv[1]).write_text("x")
print("made", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", [psutil.Process.kill, psutil.Process.terminate, kill_tree, None])
def test_whatever_ends_the_process_its_file_goes(tmp_path: Path, end: Callable[[psutil.Process], None] | None) -> None:
    file, pipe = tmp_path / "it's a file", subprocess.PIPE
    words = [sys.executable, "-c", MAKE, str(file)]
    with subprocess.Popen(words, cwd=CHECKOUT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout and process.stdout.readline() == "made\n"
        time.sleep(0.3)
        assert file.exists(), "not before its end"
        if end:
            end(psutil.Process(process.pid))
    deadline = time.monotonic() + 10
    while file.exists():
        assert time.monotonic() < deadline, "the file is left"
        time.sleep(0.05)
