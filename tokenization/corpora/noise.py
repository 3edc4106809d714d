"""A corpus of noise of any size, for benchmarks and tests that do not depend on the content."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tokenization.corpora.tar import add_member
from tokenization.files.atomic_writing import write_atomically

WORDS = {
    "en": ["red", "green", "small", "large", "old", "quiet", "house", "river", "cat", "bird", "window", "morning"],
    "zh": ["红", "绿", "小", "大", "旧", "静", "屋", "河", "猫", "鸟", "窗", "晨"],
}


def write_noise_shard(path: Path, first_row: int, num_rows: int, size_px: int, seed: int) -> None:
    """Writes rows from `first_row` on as JPEG pictures with captions, similar to photographs from img2dataset.

    A picture is scaled-up coarse noise plus a little fine noise, so that its JPEG is about as large as a photograph's.
    Its shorter side is `size_px`, its longer side up to 1.5 times `size_px`.
    """

    def fill(partial: Path) -> None:
        with tarfile.open(partial, "w") as tar:
            for row in range(first_row, first_row + num_rows):
                generator = np.random.default_rng((seed, row))
                captions = {f"caption_{name}": _caption(words, generator) for name, words in WORDS.items()}
                metadata = captions | {"score": round(float(generator.uniform(0, 10)), 3)}
                add_member(tar, f"{row:09d}.jpg", _picture(size_px, generator))
                add_member(tar, f"{row:09d}.json", json.dumps(metadata, ensure_ascii=False).encode())

    write_atomically(path, fill)


def _caption(words: list[str], generator: np.random.Generator) -> str:
    """Makes a caption of about 20 words on average, with a long tail."""
    return " ".join(generator.choice(words, 1 + int(generator.gamma(2.0, 10.0))))


def _picture(size_px: int, generator: np.random.Generator) -> bytes:
    longer = int(size_px * generator.uniform(1, 1.5))
    size = (longer, size_px) if generator.integers(2) else (size_px, longer)
    coarse = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
    fine = generator.integers(-8, 9, smooth.shape, dtype=np.int16)
    stream = io.BytesIO()
    Image.fromarray((smooth + fine).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()
