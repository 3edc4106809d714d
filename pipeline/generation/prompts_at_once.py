"""The number of pictures that a GPU's memory holds the caches of."""

from pipeline.config.model_sizes import CACHE_SHARE, ModelSizes, cache_row_bytes
from pipeline.generation.pictures import HighResolution, positions_after_prompt


def prompts_that_fit(
    sizes: ModelSizes,
    prompt_len: int,
    num_codes: int,
    high: HighResolution | None,
    guided: bool,
    element_bytes: int,
    free_bytes: int,
) -> int:
    """The number of prompts whose caches take at most `CACHE_SHARE` of the free bytes. With guidance a prompt has two
    rows."""
    positions = prompt_len + positions_after_prompt(num_codes, high)
    a_prompt = cache_row_bytes(sizes, positions, element_bytes) * (2 if guided else 1)
    return int(CACHE_SHARE * free_bytes) // a_prompt
