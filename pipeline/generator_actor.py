"""A Ray Data stage that generates with an exported model: prompts to codes, codes to captions."""

from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from pipeline.export import load_export
from pipeline.generation import Sampling, generate_captions, generate_codes
from pipeline.sequences import INSTRUCTIONS, SequenceBuilder
from tokenization.text_tokenizer import end_of_text_id, text_ids


class Generator:
    """Draws what a batch's `prompt` says, and says what its `codes` show: whichever of the columns it has.

    Args:
        export: an exported model's folder.
        num_codes: of a picture.
        max_caption_ids: of a caption.
        sampling: how codes are chosen; captions take the likeliest id.
        use_gpu: run on CUDA.
    """

    def __init__(self, export: Path, num_codes: int, max_caption_ids: int, sampling: Sampling, use_gpu: bool) -> None:
        self._model = load_export(export).to("cuda" if use_gpu else "cpu")
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(export)
        self._end_id = end_of_text_id(self._tokenizer)
        instructions = {language: self._tokenizer(text)["input_ids"] for language, text in INSTRUCTIONS.items()}
        self._builder = SequenceBuilder(self._model.config.vocabulary, instructions, self._end_id)
        self._num_codes, self._max_caption_ids, self._sampling = num_codes, max_caption_ids, sampling

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Adds `drawn_codes` [B, N] to a batch with `prompt`, and `caption` to one with `codes` and `language`."""
        made = {}
        if "prompt" in batch:
            prompts = text_ids(self._tokenizer, [str(prompt) for prompt in batch["prompt"]])
            made["drawn_codes"] = generate_codes(self._model, prompts, self._num_codes, self._sampling)
        if "codes" in batch:
            pictures = [
                self._builder.caption_prompt(np.asarray(codes), str(language))
                for codes, language in zip(batch["codes"], batch["language"], strict=True)
            ]
            ids = generate_captions(self._model, pictures, self._end_id, self._max_caption_ids)
            made["caption"] = np.asarray([self._tokenizer.decode(line) for line in ids], dtype=object)
        return batch | made
