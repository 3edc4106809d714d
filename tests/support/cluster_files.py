"""The shipped cluster files with their placeholders filled."""

from pathlib import Path

from cluster.cluster_file import PLACEHOLDER
from tests.support.checkout import CHECKOUT

CLUSTERS = CHECKOUT / "cluster"


AWS, GCP, LOCAL = (CLUSTERS / f"{name}.yaml" for name in ("aws_a100", "gcp_a100", "local"))


VALUES = {"FILL_IN_DIGEST": "0" * 64, "FILL_IN_REGION": "us-east-1", "FILL_IN_ZONE": "us-east-1a"}


def filled(path: Path, folder: Path, *changes: tuple[str, str]) -> Path:
    """Copies a file with values in place of its placeholders, and with some text replaced."""
    text = PLACEHOLDER.sub(lambda found: VALUES.get(found[0], found[0][8:].lower().replace("_", "-")), path.read_text())
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    copy = folder / path.name
    copy.write_text(text)
    return copy
