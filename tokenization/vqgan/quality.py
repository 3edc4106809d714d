"""Reconstruction quality of a VQ-GAN: PSNR through the codes, and the codes in use."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tokenization.config.pictures import Transform
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.pictures import load_picture
from tokenization.vqgan.image_tokenizer import ImageTokenizer

BATCH_SIZE = 8
"""Pictures encoded at once. With 32, a CPU's caches overflow and each picture takes a third longer."""


@dataclass(frozen=True)
class Quality:
    """Sums over pictures, so that shards can be added up.

    Attributes:
        squared_error: mean squared error of each picture on pixels 0 to 255, summed.
        pictures: number of pictures.
        used: codes that occurred, bool [codebook_size].
    """

    squared_error: float
    pictures: int
    used: np.ndarray

    def __add__(self, other: "Quality") -> "Quality":
        return Quality(self.squared_error + other.squared_error, self.pictures + other.pictures, self.used | other.used)

    @property
    def psnr_db(self) -> float:
        """Peak signal-to-noise ratio, from the mean squared error over all pictures, dB."""
        return 10 * float(np.log10(255**2 * self.pictures / self.squared_error))


def quality_of(vqgan: ImageTokenizer, pictures: list[np.ndarray], codes: list[np.ndarray] | None = None) -> Quality:
    """Measures the quality of the pictures decoded from the stored codes, or if None, from newly encoded ones.

    Args:
        vqgan: encodes and decodes.
        pictures: uint8 [S, S, 3] each.
        codes: int [N] for each picture.
    """
    total, used = 0.0, np.zeros(vqgan.codebook_size, bool)
    for start in range(0, len(pictures), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        truth = np.stack(pictures[part])
        stored = vqgan.encode(truth) if codes is None else np.stack(codes[part])
        used[stored.ravel()] = True
        total += float(((truth.astype(np.float32) - vqgan.decode(stored)) ** 2).mean(axis=(1, 2, 3)).sum())
    return Quality(total, len(pictures), used)


def quality_of_shard(vqgan_folder: Path, corpus: Corpus, shard: str, size_px: int, dtype: torch.dtype) -> Quality:
    """Measures the quality of the readable pictures of a shard at `size_px`."""
    pictures = []
    for sample in corpus.read(shard):
        if sample.picture is not None:
            try:
                pictures.append(load_picture(sample.picture, Transform(size_px)).pixels)
            except ValueError:
                continue
    return quality_of(ImageTokenizer(vqgan_folder, dtype=dtype), pictures)
