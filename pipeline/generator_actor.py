"""Ray Data stages that generate with an exported model: prompts to codes, codes to captions."""

from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from pipeline.export import load_export
from pipeline.generation import Sampling, generate_captions, generate_codes
from pipeline.sequences import INSTRUCTIONS, SequenceBuilder
from tokenization.image_tokenizer import ImageTokenizer
from tokenization.text_tokenizer import end_of_text_id


class PictureGenerator:
    """Prompts to codes and pixels.

    Args:
        export: an exported model's folder.
        vqgan: the VQ-GAN's folder.
        num_codes: of a picture.
        sampling: how codes are chosen.
    """

    def __init__(self, export: Path, vqgan: Path, num_codes: int, sampling: Sampling, use_gpu: bool) -> None:
        device = "cuda" if use_gpu else "cpu"
        self._model = load_export(export).to(device)
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(export)
        self._vqgan = ImageTokenizer(vqgan, device)
        self._num_codes, self._sampling = num_codes, sampling

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Adds `codes` and `pixels` to a batch with a column `prompt`."""
        prompts = [self._tokenizer(str(prompt))["input_ids"] for prompt in batch["prompt"]]
        codes = generate_codes(self._model, prompts, self._num_codes, self._sampling)
        return batch | {"codes": codes, "pixels": self._vqgan.decode(codes)}


class CaptionGenerator:
    """Codes of pictures to captions in a language."""

    def __init__(self, export: Path, max_caption_ids: int, use_gpu: bool) -> None:
        self._model = load_export(export).to("cuda" if use_gpu else "cpu")
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(export)
        instructions = {language: self._tokenizer(text)["input_ids"] for language, text in INSTRUCTIONS.items()}
        self._end_id = end_of_text_id(self._tokenizer)
        self._builder = SequenceBuilder(self._model.config.vocabulary, instructions, self._end_id)
        self._max_caption_ids = max_caption_ids

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Adds `caption` to a batch with the columns `picture_codes` and `language`."""
        prompts = [
            self._builder.caption_prompt(np.asarray(codes), str(language))
            for codes, language in zip(batch["picture_codes"], batch["language"], strict=True)
        ]
        ids = generate_captions(self._model, prompts, self._end_id, self._max_caption_ids)
        return batch | {"caption": np.asarray([self._tokenizer.decode(line) for line in ids], dtype=object)}
