"""The part of a dry run about generation: the cache of a picture, and how many pictures a GPU draws at once."""

from pipeline.config.model_sizes import CACHE_SHARE, cache_row_bytes
from pipeline.planning.memory import RUNTIME_BYTES
from pipeline.planning.recipe_plan import RecipePlan

BFLOAT16_BYTES = 2
"""Bytes of an element of an export on a GPU."""
BORDERS = 2


def generation_note(plan: RecipePlan) -> str:
    """A line on the memory that a picture's cache takes, and on the prompts that fit beside the weights of one GPU;
    empty on CPUs."""
    if plan.device.memory_bytes is None:
        return ""
    lengths, recipe = plan.lengths, plan.recipe
    groups = [stage.stage.high_resolution_group for stage in plan.stages if stage.stage.needs_high_codes]
    high = groups[-1] + lengths.num_high_codes if groups else 0
    positions = lengths.max_caption_ids + BORDERS + lengths.num_codes + high
    row = cache_row_bytes(plan.config, positions, BFLOAT16_BYTES)
    free = plan.device.memory_bytes - RUNTIME_BYTES - BFLOAT16_BYTES * plan.counts.total
    fit = max(0, int(CACHE_SHARE * free) // row)
    wanted = recipe.evaluation.batch_size
    codes = f"{lengths.num_codes:,}" + (f" and {lengths.num_high_codes:,} codes" if high else " codes")
    batch = f"evaluation.batch_size is {wanted}" + (
        "" if wanted <= fit else ", so that generation takes as many at once as fit"
    )
    return (
        f"Generation: the cache of a picture of {codes} takes {row / 1e9:.2f} GB, twice that with guidance; beside the "
        f"weights, {fit} prompts fit on a {plan.device.name}, {fit // 2} with guidance; {batch}."
    )
