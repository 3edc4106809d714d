"""Pictures that a stage draws of fixed prompts while it trains."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.generation.pictures import HighResolution, PictureGenerator
from pipeline.generation.sampling import GREEDY
from pipeline.training.engine import Engine
from tokenization.vqgan.image_tokenizer import ImageTokenizer

GAP_PX = 4


@dataclass(frozen=True)
class SamplePrompts:
    """What is drawn.

    Attributes:
        ids: text ids of each prompt.
        num_codes: of a base picture.
        high: the high-resolution picture after each one; None for none.
        vqgan: folder of the VQ-GAN that turns codes into pixels.
        vqgan_dtype: in which it does.
    """

    ids: list[list[int]]
    num_codes: int
    high: HighResolution | None
    vqgan: Path
    vqgan_dtype: str


@torch.no_grad()
def draw_samples(engine: Engine, prompts: SamplePrompts, rank: int) -> np.ndarray | None:
    """One row of pictures, the high resolution's below it, uint8 [H, W, 3]; the likeliest code everywhere.

    Every rank calls it, since ZeRO-3 gathers each weight on all of them; rank 0 gets the picture.
    """
    engine.eval()
    longest = max(map(len, prompts.ids))
    generator = PictureGenerator(
        engine.module.mars, len(prompts.ids), longest, prompts.num_codes, GREEDY, prompts.high, many_steps=False
    )
    pictures = generator.draw(prompts.ids, [0] * len(prompts.ids))
    engine.train()
    if rank:
        return None
    vqgan = ImageTokenizer(prompts.vqgan, dtype=getattr(torch, prompts.vqgan_dtype))
    rows = [_row(vqgan.decode(codes)) for codes in (pictures.codes, pictures.high_codes) if codes is not None]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, GAP_PX), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded)


def _row(pictures_BSS3: np.ndarray) -> np.ndarray:
    gaps = np.pad(pictures_BSS3, ((0, 0), (0, 0), (0, GAP_PX), (0, 0)), constant_values=255)
    return np.concatenate(list(gaps), axis=1)
