"""Draws several pictures for each prompt and keeps the one out of which the model itself reads the prompt best.

A model that is trained in both directions can judge its own pictures by log p(prompt | picture) of its captioning.
CogView does so (self-reranking, Ding 2021, arXiv 2105.13290). It is not in MARS's paper.

Shape letters: B prompts, K candidates, N codes.
"""

from collections.abc import Callable

import numpy as np

from pipeline.data.sequences import SequenceBuilder
from pipeline.generation.captions import caption_log_likelihoods
from pipeline.generation.pictures import PictureGenerator
from pipeline.generation.sampling import MAX_SEED
from pipeline.model.mars import MarsForCausalLM

SEED_STRIDE = 2**20
"""Distance of two candidates' seeds. It is large, because pictures of one prompt have consecutive seeds; torch's random
numbers depend on a seed's last 32 bits alone."""


def draw_best(
    draw: Callable[[list[int]], np.ndarray],
    seeds: list[int],
    num_candidates: int,
    judge: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Returns the best candidate of each row, codes [B, N].

    Args:
        draw: draws a picture for each row from its seed, [B, N].
        seeds: the seed of each row's first candidate, which alone is drawn if `num_candidates` is 1.
        num_candidates: K.
        judge: returns a score of each row's picture, float [B]. Of equal ones, the first candidate is kept.
    """
    best = draw(seeds)
    if num_candidates == 1:
        return best
    scores = judge(best)
    for number in range(1, num_candidates):
        codes = draw([(seed + number * SEED_STRIDE) & MAX_SEED for seed in seeds])
        new = judge(codes)
        best = np.where((new > scores)[:, None], codes, best)
        scores = np.maximum(scores, new)
    return best


def high_codes_of(
    generator: PictureGenerator, prompts: list[list[int]], codes: np.ndarray, seeds: list[int]
) -> np.ndarray:
    """The high-resolution codes [B, M] for given base pictures, as they are drawn right after the base pictures."""
    parts = []
    for start in range(0, len(prompts), generator.batch_size):
        batch = slice(start, start + generator.batch_size)
        generator.read(prompts[batch], codes[batch], seeds[batch])
        parts.append(generator.generate_high())
    return np.concatenate(parts)


def prompt_log_likelihoods(
    model: MarsForCausalLM, builder: SequenceBuilder, prompts: list[list[int]], codes: np.ndarray, languages: list[str]
) -> np.ndarray:
    """log p(prompt | picture) of the model's captioning, nats, float64 [B].

    Args:
        model: the model.
        builder: has the instructions of the languages.
        prompts: text ids of each prompt.
        codes: the pictures, raw VQ indices [B, N].
        languages: the language of each prompt. One without an instruction is read in all languages, and the largest
            value counts.
    """
    text_len = max(map(len, builder.instruction_ids.values()))
    found = np.full(len(prompts), -np.inf)
    for language in builder.instruction_ids:
        rows = [row for row, own in enumerate(languages) if own == language or own not in builder.instruction_ids]
        if rows:
            asked = [builder.caption_prompt(codes[row], language) for row in rows]
            captions = [prompts[row] for row in rows]
            new = caption_log_likelihoods(model, asked, captions, builder.end_id, text_len)
            found[rows] = np.maximum(found[rows], new)
    return found
