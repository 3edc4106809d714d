"""How long a stage waits for storage, and after how long its attempt counts as hung."""

from collections.abc import Iterable

from pipeline.config.stage import StageConfig


def patience_problems(stage: StageConfig, outage_s: float, locations: Iterable[str]) -> list[str]:
    """The reason why a stage would be ended as hung while it waits for a bucket; empty if there is none.

    Args:
        stage: the stage.
        outage_s: see `Recipe`.
        locations: what the stage reads and writes while it trains.
    """
    bucket = next((location for location in locations if "://" in location), "")
    if not bucket or outage_s < stage.step_timeout_s:
        return []
    return [
        f"step_timeout_s is {stage.step_timeout_s:g}, but must be longer than outage_s, {outage_s:g}, by at least the "
        f"longest step: workers that wait for {bucket} would count as hung; change one of them"
    ]
