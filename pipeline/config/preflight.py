"""Settings of the checks before a run."""

from dataclasses import dataclass

SUBJECTS = ("nodes", "versions", "clocks", "devices", "storage", "inputs", "ops", "network", "steps")
"""What is checked, in this order."""


@dataclass(frozen=True)
class PreflightSettings:
    """Settings of the checks before a run."""

    stage: str = "all"
    """Stage whose inputs and steps are checked, from 1, or `all`."""
    minutes: float = 10.0
    """Minutes for all checks. What was not checked by then counts as failed."""
    wait_minutes: float = 0.0
    """Minutes to wait for the recipe's workers to have room, before the others count: for clusters that start nodes."""
    cluster: str = ""
    """Cluster file, as in cluster/aws_a100.yaml, whose machines the plan is made for. Default: the first known ones
    with the recipe's GPU."""
    network_gbit_per_s: float = 0.0
    """Gbit/s between nodes that the plan is made for. Default: those of the machines."""
