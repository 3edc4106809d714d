"""Pictures for training a VQ-GAN: an endless shuffled stream out of shards, mixed with synthetic drawings,
scaled, cropped and recoloured.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenization.config.pictures import Transform
from tokenization.config.vqgan import VqganConfig
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.pictures import load_picture
from tokenization.errors import InputError
from tokenization.vqgan.synthetic import synthetic_pictures

SYNTHETIC_STREAM = 1
"""Makes the random numbers of the synthetic drawings others than those of the pictures' order."""


def picture_batches(
    corpus: Corpus, size_px: int, batch_size: int, rank: int, world_size: int, seed: int, buffer_size: int = 4096
) -> Iterator[Tensor]:
    """Yields batches uint8 [batch_size, 3, size_px, size_px]; each rank reads its own shards.

    Pictures leave a buffer of `buffer_size` in random order while shards, shuffled every epoch, fill it.
    Pictures that cannot be read are left out.

    Raises:
        InputError: the corpus cannot be used, or a rank has no shard or no readable picture.
    """
    generator = np.random.default_rng((seed, rank))
    buffer: list[np.ndarray] = []
    for pixels in _endless_pictures(corpus, size_px, rank, world_size, generator):
        buffer.append(pixels)
        if len(buffer) < buffer_size:
            continue
        chosen = [_take(buffer, generator) for _ in range(batch_size)]
        yield torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2)


def with_synthetic(
    batches: Iterator[Tensor], share: float, size_px: int, batch_size: int, rank: int, seed: int
) -> Iterator[Tensor]:
    """Yields synthetic drawings, uint8 [batch_size, 3, size_px, size_px], in place of this share of the batches.

    Raises:
        InputError: see `synthetic_pictures`.
    """
    generator = np.random.default_rng((seed, rank, SYNTHETIC_STREAM))
    pictures = synthetic_pictures(generator, size_px)
    while True:
        if generator.random() < share:
            drawn = np.stack([next(pictures) for _ in range(batch_size)])
            yield torch.from_numpy(drawn).permute(0, 3, 1, 2)
        else:
            yield next(batches)


def scale_batch(pictures: Tensor, config: VqganConfig, generator: torch.Generator) -> Tensor:
    """Converts pictures uint8 [B, 3, 2H, 2W] to float32 [B, 3, H, W] in [0, 1]: all scaled down, or all cropped."""
    size = config.image_size_px
    if torch.rand((), generator=generator).item() < config.crop_share:
        top, left = torch.randint(size + 1, (2,), generator=generator).tolist()
        return pictures[:, :, top : top + size, left : left + size].float() / 255
    small = F.interpolate(pictures.float(), size=(size, size), mode="bicubic", antialias=True)
    return small.clamp(0, 255) / 255


def large_batch(pictures: Tensor) -> Tensor:
    """Converts a quarter of the pictures uint8 [B, 3, 2H, 2W], at least one, to float32 in [0, 1], at their size."""
    return pictures[: max(1, len(pictures) // 4)].float() / 255


def recolour(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Maps each colour channel of each picture from [0, 1] to the range between two random levels."""
    levels = torch.rand(2, len(images_BCHW), 3, 1, 1, generator=generator).to(images_BCHW)
    return torch.lerp(levels[0], levels[1], images_BCHW)


def _take(buffer: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    index = int(generator.integers(len(buffer)))
    buffer[index], buffer[-1] = buffer[-1], buffer[index]
    return buffer.pop()


def _endless_pictures(
    corpus: Corpus, size_px: int, rank: int, world_size: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    shards = corpus.shards[rank::world_size]
    if not shards:
        raise InputError(
            f"corpus {corpus.source.url!r} has fewer shards than the {world_size} workers; use fewer workers"
        )
    transform = Transform(size_px)
    while True:
        readable = 0
        for shard in generator.permutation(shards):
            for sample in corpus.read(str(shard)):
                if sample.picture is None:
                    continue
                try:
                    pixels = load_picture(sample.picture, transform).pixels
                except ValueError:
                    continue  # tokenization reports and counts these; training ignores them
                readable += 1
                yield pixels
        if not readable:
            raise InputError(f"corpus {corpus.source.url!r} has no readable picture in the shards of worker {rank}")
