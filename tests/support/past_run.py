"""The small run that past code began, copied to where a test may go on with it."""

import shutil
from pathlib import Path

from tests.support.checkout import CHECKOUT

PAST_RUN = CHECKOUT / "tests" / "end_to_end" / "past_run"
RECIPE = PAST_RUN / "recipe.py"
PLACE = "PAST_RUN"
"""What stands in the kept files for the folder that the run lies in."""


def copy_past_run(folder: Path) -> Path:
    """Copies the recipe, the corpora and the run to `folder`. Returns the run's folder."""
    shutil.copytree(PAST_RUN, folder)
    for path in [*folder.rglob("*.json"), *folder.rglob("*.md")]:
        path.write_text(path.read_text().replace(PLACE, str(folder)))
    return folder / "past"


def copy_past_inputs(root: Path) -> Path:
    """Copies what the first stage starts from: tokens, VQ-GAN, language expert. Returns the run's folder in `root`."""
    run = root / "past"
    shutil.copytree(PAST_RUN / "past", run, ignore=shutil.ignore_patterns("ledger", "stage*"))
    return run
