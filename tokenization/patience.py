"""How long this process waits for a storage service that does not answer."""

import os

OUTAGE_VARIABLE = "MARS_OUTAGE_S"
"""Environment variable with the limit, in seconds. Jobs set it for their workers from the recipe's `outage_s`."""
DEFAULT_OUTAGE_S = 1200.0


def outage_s() -> float:
    """Seconds without an answer after which a service counts as down."""
    return float(os.environ.get(OUTAGE_VARIABLE) or DEFAULT_OUTAGE_S)
