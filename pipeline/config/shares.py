"""Shares as integer numbers of parts, and the division of a step's samples among sources."""

PARTS = 1 << 24
"""Shares are integer multiples of 1 / `PARTS`, because sums of floats would drift."""


def parts_of(weights: list[float]) -> list[int]:
    """Each weight's share of their sum, in `PARTS`."""
    total = sum(weights)
    return [round(weight / total * PARTS) for weight in weights]


def no_room(weights: list[float], samples_per_step: int) -> str:
    """Returns an error message if the smaller sources can take more samples than a step has; else empty."""
    parts = parts_of(weights)
    most = sum(-(-part * samples_per_step // PARTS) for part in sorted(parts)[:-1])
    if most < samples_per_step:
        return ""
    return f"{len(weights)} sources do not fit into steps of {samples_per_step} samples; raise global_batch_size"
