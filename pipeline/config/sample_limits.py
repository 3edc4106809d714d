"""Limits on a sample's length: a stage's `seq_len` and the language expert's positions."""

from pipeline.config.stage import StageConfig

LONGEST_FRAME = 16
"""Maximum number of ids around codes and caption: an instruction, the picture's borders, the caption's end."""


def longest_sample(num_codes: int, num_high_codes: int, max_caption_ids: int) -> int:
    """Maximum tokens of a sample of one picture; `num_high_codes` is 0 if it has no high resolution."""
    return num_codes + num_high_codes + max_caption_ids + LONGEST_FRAME


def seq_len_problem(stage: StageConfig, num_codes: int, num_high_codes: int, max_caption_ids: int) -> str:
    """Returns the reason why such samples do not fit into a row of the stage; empty if they fit."""
    longest = longest_sample(num_codes, num_high_codes, max_caption_ids)
    if stage.seq_len >= longest:
        return ""
    return (
        f"seq_len {stage.seq_len} is too short for a sample, which can have {longest} tokens ({num_codes} codes, "
        f"{num_high_codes} of the high resolution, {max_caption_ids} caption ids, borders and instruction); "
        "raise seq_len"
    )


def positions_problem(stage: StageConfig, longest: int, has_documents: bool, max_positions: int) -> str:
    """Returns an error message if samples of up to `longest` tokens, or documents of up to `seq_len`, have more
    positions than the language expert was trained on; else empty."""
    if has_documents:
        longest = max(longest, stage.seq_len)
    if longest <= max_positions:
        return ""
    return (
        f"a sample can have {longest} tokens, but the language expert knows {max_positions} positions (beyond its "
        "seq_length Qwen-7B uses logn attention and dynamic NTK, which MARS does not have); lower seq_len, "
        "tokenization.size_hr_px or max_caption_ids"
    )
