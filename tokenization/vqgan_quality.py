"""How well a VQ-GAN keeps pictures: PSNR through the codes, and the codes in use."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenization.corpus import read_shard
from tokenization.image_tokenizer import ImageTokenizer
from tokenization.pictures import Transform, load_picture

BATCH_SIZE = 32


@dataclass(frozen=True)
class Quality:
    """Sums over pictures, so that shards can be added up.

    Attributes:
        squared_error: mean squared error of each picture on pixels 0 to 255, summed.
        pictures: how many.
        used: bool [codebook_size].
    """

    squared_error: float
    pictures: int
    used: np.ndarray

    def __add__(self, other: "Quality") -> "Quality":
        return Quality(self.squared_error + other.squared_error, self.pictures + other.pictures, self.used | other.used)

    @property
    def psnr_db(self) -> float:
        """Peak signal-to-noise ratio of the mean squared error over all pictures, dB."""
        return 10 * float(np.log10(255**2 * self.pictures / self.squared_error))


def quality_of_shard(vqgan_folder: Path, shard: Path, size_px: int) -> Quality:
    """Encodes and decodes the readable pictures of a shard at `size_px`."""
    vqgan = ImageTokenizer(vqgan_folder)
    pictures = []
    for sample in read_shard(shard):
        if sample.picture is not None:
            try:
                pictures.append(load_picture(sample.picture, Transform(size_px)).pixels)
            except ValueError:
                continue
    total, used = 0.0, np.zeros(vqgan.codebook_size, bool)
    for start in range(0, len(pictures), BATCH_SIZE):
        truth = np.stack(pictures[start : start + BATCH_SIZE])
        codes = vqgan.encode(truth)
        used[codes.ravel()] = True
        total += float(((truth.astype(np.float32) - vqgan.decode(codes)) ** 2).mean(axis=(1, 2, 3)).sum())
    return Quality(total, len(pictures), used)
