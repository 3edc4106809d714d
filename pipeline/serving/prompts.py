"""Prompts of requests to text ids."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from pipeline.serving.api_errors import wrong
from tokenization.text_tokenizer import text_ids

MAX_LETTERS = 20_000
"""Letters of a prompt that are tokenized at all."""


class Tokenizer:
    """The text tokenizer of an export."""

    def __init__(self, export: str) -> None:
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(Path(export))

    def ids_of(self, text: Any, param: str, max_ids: int) -> list[int]:
        """The text ids of a prompt.

        Raises:
            ApiError: it is missing, empty, no text, or too long.
        """
        if text is None:
            raise wrong(param, f"{param} is missing; say what to draw", "missing_required_parameter")
        if not isinstance(text, str):
            raise wrong(param, f"{param} must be a text", "invalid_type")
        if not text.strip():
            raise wrong(param, f"{param} is empty; say what to draw")
        if len(text) > MAX_LETTERS:
            raise wrong(param, f"{param} has {len(text)} letters, more than {MAX_LETTERS}; say it in fewer words")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise wrong(param, f"{param} has half of a pair of surrogates, which is no text; leave it out") from error
        (ids,) = text_ids(self._tokenizer, [text])
        if len(ids) > max_ids:
            raise wrong(
                param,
                f"{param} has {len(ids)} text ids, this model takes at most {max_ids}; say it in fewer words",
                "string_above_max_length",
            )
        return ids
