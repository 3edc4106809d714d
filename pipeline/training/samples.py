"""Sample pictures from fixed prompts, drawn while a stage trains."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.generation.pictures import HighResolution, PictureGenerator, Pictures
from pipeline.generation.sampling import GREEDY
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.deepspeed_private import kept_gathered, own_module_order
from pipeline.training.engine import Engine
from tokenization.dtypes import fast_dtype
from tokenization.vqgan.image_tokenizer import ImageTokenizer

GAP_PX = 4


@dataclass(frozen=True)
class SamplePrompts:
    """The prompts and the geometry of the sample pictures.

    Attributes:
        ids: text ids of each prompt.
        num_codes: codes of a base picture.
        high: the high resolution drawn after each base picture, or None.
        vqgan: folder of the VQ-GAN that decodes codes to pixels.
    """

    ids: list[list[int]]
    num_codes: int
    high: HighResolution | None
    vqgan: Path


@torch.no_grad()
def draw_samples(engine: Engine, prompts: SamplePrompts, rank: int, device: torch.device) -> np.ndarray | None:
    """Draws one row of pictures with greedy decoding, uint8 [H, W, 3]; high-resolution pictures are in a second row.

    Every rank calls it, since ZeRO-3 gathers the weights on all of them, once for all codes. Rank 0
    gets the picture, which the VQ-GAN decodes on `device` in the dtype that is fast there.
    """
    engine.eval()
    with own_module_order(engine), kept_gathered(engine.module.parameters()):
        pictures = _drawn(engine.module.mars, prompts)
    engine.train()
    return None if rank else _shown(pictures, prompts.vqgan, device)


@torch.no_grad()
def draw_samples_alone(mars: MarsForCausalLM, prompts: SamplePrompts, device: torch.device) -> np.ndarray:
    """The picture of `draw_samples`, from one process that holds the whole model."""
    return _shown(_drawn(mars.eval(), prompts), prompts.vqgan, device)


def _drawn(mars: MarsForCausalLM, prompts: SamplePrompts) -> Pictures:
    longest, rows = max(map(len, prompts.ids)), len(prompts.ids)
    generator = PictureGenerator(mars, rows, longest, prompts.num_codes, GREEDY, prompts.high, many_steps=False)
    return generator.draw(prompts.ids, [0] * rows)


def _shown(pictures: Pictures, folder: Path, device: torch.device) -> np.ndarray:
    vqgan = ImageTokenizer(folder, device, fast_dtype(device))
    rows = [_row(vqgan.decode(codes)) for codes in (pictures.codes, pictures.high_codes) if codes is not None]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, GAP_PX), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded)


def _row(pictures_BSS3: np.ndarray) -> np.ndarray:
    gaps = np.pad(pictures_BSS3, ((0, 0), (0, 0), (0, GAP_PX), (0, 0)), constant_values=255)
    return np.concatenate(list(gaps), axis=1)
