"""A Ray Data actor that generates with an exported model: pictures from prompts, captions from pictures, illustrated
documents from prompts."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from pipeline.config.stage import INSTRUCTIONS
from pipeline.data.sequences import SequenceBuilder
from pipeline.export.export import load_export
from pipeline.generation.candidates import draw_best, high_codes_of, prompt_log_likelihoods
from pipeline.generation.captions import generate_captions
from pipeline.generation.documents import DocumentLimits, Segment, generate_documents
from pipeline.generation.pictures import HighResolution, PictureGenerator, Pictures
from pipeline.generation.prompts_at_once import prompts_that_fit
from pipeline.generation.sampling import GREEDY, Sampling
from pipeline.generation.speculative import speculation_of
from tokenization.dtypes import fast_dtype
from tokenization.errors import InputError
from tokenization.text_tokenizer import end_of_text_id, text_ids
from tokenization.vqgan.image_tokenizer import ImageTokenizer


@dataclass(frozen=True)
class GeneratorConfig:
    """Settings of a `Generator`.

    Attributes:
        export: an exported model's folder.
        batch_size: rows generated at once; smaller batches are padded, so that pictures do not depend on the other rows
            of the batch. On a GPU whose free memory does not hold the caches of so many pictures, as many as fit.
        prompt_len: maximum text ids of a prompt.
        num_codes: codes of a picture.
        sampling: sampling of codes, and of the text of documents.
        caption_sampling: sampling of captions.
        max_caption_ids: maximum ids of a caption.
        high: the high-resolution picture after each base picture; None for none.
        documents: limits of illustrated documents; None if prompts are for single pictures.
        vqgan: a saved VQ-GAN, which encodes pictures and decodes codes to PNGs; None to return codes only.
        vqgan_dtype: dtype of its encoder, as in the tokens' fingerprint.
        use_gpu: run on CUDA with compiled steps.
        as_served: see `PictureGenerator`.
        num_drafts: codes that are drafted for each pass of a picture (see `pipeline.generation.speculative`); 0 for
            plain decoding.
        draft_tokens: the token folder that the drafts come from.
        num_candidates: pictures that are drawn for each row; the one out of which the model reads the prompt best is
            kept (see `pipeline.generation.candidates`).
    """

    export: Path
    batch_size: int
    prompt_len: int
    num_codes: int
    sampling: Sampling
    caption_sampling: Sampling = GREEDY
    max_caption_ids: int = 32
    high: HighResolution | None = None
    documents: DocumentLimits | None = None
    vqgan: Path | None = None
    vqgan_dtype: str = "float32"
    use_gpu: bool = False
    as_served: bool = False
    num_drafts: int = 0
    draft_tokens: str = ""
    num_candidates: int = 1


class Generator:
    """Maps batches (columns by name) of at most `batch_size` rows. The input columns decide the output columns.

    `prompt` gives `drawn_codes` and, with a high resolution, `drawn_high_codes`; with a VQ-GAN also `png` and
    `high_png`. If `documents` is set, `prompt` gives `segments` instead, as JSON: dicts with `text`, or with `codes`
    and a base64 `png`. `pixels` or `codes`, together with `language`, give `caption`. Every row has a `seed`.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        self._config = config
        device = torch.device("cuda" if config.use_gpu else "cpu")
        self._model = load_export(config.export, fast_dtype(device)).to(device)
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(config.export)
        self._end_id = end_of_text_id(self._tokenizer)
        instructions = {language: self._tokenizer(text)["input_ids"] for language, text in INSTRUCTIONS.items()}
        self._instruction_len = max(map(len, instructions.values()))
        self._builder = SequenceBuilder(self._model.config.vocabulary, instructions, self._end_id)
        self._picture_generator: PictureGenerator | None = None
        self._base_generator: PictureGenerator | None = None
        self._vqgan = None
        if config.vqgan:
            self._vqgan = ImageTokenizer(config.vqgan, device, getattr(torch, config.vqgan_dtype))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the batch with the generated columns."""
        made: dict[str, np.ndarray] = {}
        if "prompt" in batch:
            lines = text_ids(self._tokenizer, [str(prompt) for prompt in batch["prompt"]])
            prompts = [ids[: self._config.prompt_len] for ids in lines]  # the same cut as for the tokens' captions
            seeds = [int(seed) for seed in batch["seed"]]
            languages = [str(language) for language in batch.get("language", [""] * len(prompts))]
            made |= (
                self._documents(prompts, seeds) if self._config.documents else self._pictures(prompts, seeds, languages)
            )
        if "pixels" in batch:
            assert self._vqgan is not None
            made["codes"] = self._vqgan.encode(np.stack(list(batch["pixels"])))
        if "pixels" in batch or "codes" in batch:
            made["caption"] = self._captions(batch | made)
        return {name: column for name, column in (batch | made).items() if name != "pixels"}

    def _pictures(self, prompts: list[list[int]], seeds: list[int], languages: list[str]) -> dict[str, np.ndarray]:
        config = self._config
        if self._picture_generator is None:
            self._picture_generator = self._new_picture_generator(config.high)
        if config.num_candidates > 1:
            best = self._best_codes(prompts, seeds, languages)
            high = high_codes_of(self._picture_generator, prompts, best, seeds) if config.high else None
            pictures = Pictures(best, high)
        else:
            pictures = self._picture_generator.draw_all(prompts, seeds)
        made = {"drawn_codes": pictures.codes}
        if pictures.high_codes is not None:
            made["drawn_high_codes"] = pictures.high_codes
        if self._vqgan:
            made["png"] = np.asarray(self._pngs(pictures.codes), dtype=object)
            if pictures.high_codes is not None:
                made["high_png"] = np.asarray(self._pngs(pictures.high_codes), dtype=object)
        return made

    def _new_picture_generator(self, high: HighResolution | None) -> PictureGenerator:
        config = self._config
        return PictureGenerator(
            self._model,
            self._prompts_at_once(),
            config.prompt_len,
            config.num_codes,
            config.sampling,
            high,
            compile_steps=config.use_gpu,
            as_served=config.as_served,
            speculation=speculation_of(config.draft_tokens, config.num_drafts, high is not None),
        )

    def _best_codes(self, prompts: list[list[int]], seeds: list[int], languages: list[str]) -> np.ndarray:
        """Draws the candidates' base pictures, and returns the best one of each row."""
        if self._base_generator is None:
            self._base_generator = self._new_picture_generator(None) if self._config.high else self._picture_generator
        generator = self._base_generator
        assert generator is not None

        def draw(candidate_seeds: list[int]) -> np.ndarray:
            return generator.draw_all(prompts, candidate_seeds).codes

        def judge(codes: np.ndarray) -> np.ndarray:
            return prompt_log_likelihoods(self._model, self._builder, prompts, codes, languages)

        return draw_best(draw, seeds, self._config.num_candidates, judge)

    def _prompts_at_once(self) -> int:
        """`batch_size`, or as many prompts as the GPU's free memory holds.

        Raises:
            InputError: it holds the cache of none.
        """
        config = self._config
        if not config.use_gpu:
            return config.batch_size
        free, _ = torch.cuda.mem_get_info()
        element = self._model.head.visual_weight.element_size()
        guided, lengths = config.sampling.guided, (config.prompt_len, config.num_codes, config.high)
        fit = prompts_that_fit(self._model.config, *lengths, guided, element, free)
        if not fit:
            raise InputError(
                f"the GPU has {free / 1e9:.1f} GB free, too few for the cache of one picture of "
                f"{config.high.num_codes if config.high else config.num_codes} codes; end what else runs on it, or "
                "take one with more memory"
            )
        return min(config.batch_size, fit)

    def _captions(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        prompts = [
            self._builder.caption_prompt(np.asarray(codes), str(language))
            for codes, language in zip(batch["codes"], batch["language"], strict=True)
        ]
        seeds = [int(seed) for seed in batch["seed"]]
        count, short = len(prompts), self._config.batch_size - len(prompts)
        ids = generate_captions(
            self._model,
            [*prompts, *prompts[:1] * short],
            self._end_id,
            self._config.max_caption_ids,
            self._config.caption_sampling,
            [*seeds, *seeds[:1] * short],
            self._instruction_len,
        )
        return np.asarray([self._tokenizer.decode(line) for line in ids[:count]], dtype=object)

    def _documents(self, prompts: list[list[int]], seeds: list[int]) -> dict[str, np.ndarray]:
        config, short = self._config, self._config.batch_size - len(prompts)
        assert config.documents is not None
        documents = generate_documents(
            self._model,
            [*prompts, *prompts[:1] * short],
            config.documents,
            self._end_id,
            config.sampling,
            [*seeds, *seeds[:1] * short],
            config.prompt_len,
        )[: len(prompts)]
        segments = [json.dumps(self._plain(document)) for document in documents]
        return {"segments": np.asarray(segments, dtype=object)}

    def _plain(self, document: list[Segment]) -> list[dict]:
        pictures = [segment for segment in document if isinstance(segment, np.ndarray)]
        pngs = iter(self._pngs(np.stack(pictures)) if pictures and self._vqgan else [])
        plain: list[dict] = []
        for segment in document:
            if isinstance(segment, list):
                plain.append({"text": self._tokenizer.decode(segment)})
                continue
            plain.append({"codes": segment.tolist()})
            if self._vqgan:
                plain[-1]["png"] = base64.b64encode(next(pngs)).decode()
        return plain

    def _pngs(self, codes_BN: np.ndarray) -> list[bytes]:
        assert self._vqgan is not None
        pngs = []
        for pixels in self._vqgan.decode_all(codes_BN):
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            pngs.append(content.getvalue())
        return pngs
