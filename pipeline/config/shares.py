"""Shares as whole numbers of parts, and how sources share a step's samples."""

PARTS = 1 << 24
"""Shares are whole numbers of these parts: sums of floats would differ in the end."""


def parts_of(weights: list[float]) -> list[int]:
    """Each weight's share of their sum, in `PARTS`."""
    total = sum(weights)
    return [round(weight / total * PARTS) for weight in weights]


def no_room(weights: list[float], samples_per_step: int) -> str:
    """What is wrong where the smaller sources can take more samples than a step has; else empty."""
    parts = parts_of(weights)
    most = sum(-(-part * samples_per_step // PARTS) for part in sorted(parts)[:-1])
    if most < samples_per_step:
        return ""
    return f"{len(weights)} sources do not fit into steps of {samples_per_step} samples; raise global_batch_size"
