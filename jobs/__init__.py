"""Command lines: flags, a call into `pipeline` or `tokenization`, an exit code. Nothing imports a job.

A job's file imports this package first, then the standard library, tyro, `jobs.common`, `pipeline.config`,
`pipeline.errors` and `tokenization.config`: all that its dataclass of flags needs, so that `--help` and a mistyped flag
answer at once. `main` imports what it calls, because torch, Ray and transformers take seconds to load.
"""

import sys
from pathlib import Path

# A script's own folder comes first on the path, and there `tokenize.py` would hide the standard library's module of
# that name, which `dataclasses` and `inspect` need. So every job imports this package before anything else.
sys.path[:] = [entry for entry in sys.path if not (Path(entry or ".") / "train_stage.py").exists()]
