"""Measures how well the stored codes preserve the corpus's pictures."""

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.runs.paths import RunPaths
from tokenization.config.pictures import Transform
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.pictures import load_picture
from tokenization.table.shard_statistics import token_name
from tokenization.table.token_table import TokenShard, common_fingerprint, list_token_shards
from tokenization.vqgan.image_tokenizer import ImageTokenizer
from tokenization.vqgan.quality import Quality, quality_of


def vqgan_of_tokens(paths: RunPaths) -> ImageTokenizer:
    """Returns the VQ-GAN with the arithmetic settings under which the run's tokens were made."""
    dtype = common_fingerprint(list_token_shards(paths.tokens)).encoder_dtype
    return ImageTokenizer(paths.vqgan, dtype=getattr(torch, dtype))


def decode_distinct(vqgan: ImageTokenizer, codes: Sequence[np.ndarray]) -> np.ndarray:
    """Decodes codes to pixels, uint8 [rows, S, S, 3]. Equal rows (memorised pictures) are decoded once."""
    grid, places = np.unique(np.stack([np.asarray(line) for line in codes]), axis=0, return_inverse=True)
    return vqgan.decode_all(grid)[places.ravel()]


def quality_of_tokens(paths: RunPaths, shard: TokenShard) -> tuple[Quality, list[tuple[str, np.ndarray]]]:
    """Returns the quality of a shard's stored codes, and cells for a sheet (see `picture_sheet`).

    The cells are the shard's first picture, decoded from its stored codes and from its codes at twice the size.
    """
    vqgan = vqgan_of_tokens(paths)
    table = shard.read(["sample_id", "codes"])
    stored = dict(zip(table["sample_id"].to_pylist(), table["codes"].to_pylist(), strict=True))
    corpus = Corpus(paths.corpus_source)
    name = next(name for name in corpus.shards if token_name(name) == shard.name)
    transform = Transform(common_fingerprint([shard]).transform["size_px"])
    twice = Transform(2 * transform.size_px)
    pictures, codes = [], []
    cells: list[tuple[str, np.ndarray]] = []
    for sample in corpus.read(name):
        line = stored.get(f"{name}/{sample.key}")
        if line is not None and sample.picture:
            pictures.append(load_picture(sample.picture, transform).pixels)
            codes.append(np.asarray(line))
            if not cells:
                original = load_picture(sample.picture, twice).pixels
                cells = [("original", original)]
                for kept in (codes[0][None], vqgan.encode(original[None])):
                    cells.append((f"{kept.shape[1]} codes", vqgan.decode(kept)[0]))
    return quality_of(vqgan, pictures, codes), cells
