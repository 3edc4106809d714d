"""Command lines: flags, a call into `pipeline` or `tokenization`, an exit code. Nothing imports a job."""

import sys
from pathlib import Path

# A script's own folder comes first on the path, and there `tokenize.py` would hide the standard library's module of
# that name, which `dataclasses` and `inspect` need. So every job imports this package before anything else.
sys.path[:] = [entry for entry in sys.path if not (Path(entry or ".") / "train_stage.py").exists()]
