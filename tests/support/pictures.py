"""Makes small pictures, and tar shards of them."""

import json
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def png(size: tuple[int, int] = (40, 30), mode: str = "RGB", color: Any = (200, 30, 30)) -> bytes:
    content = BytesIO()
    Image.new(mode, size, color).save(content, "PNG")
    return content.getvalue()


def noise_png(seed: int, size_px: int = 32) -> bytes:
    content = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((size_px, size_px)).save(content, "PNG")
    return content.getvalue()


TarSample = tuple[str, bytes | None, dict | bytes | None]
"""Key, picture and metadata; None is left out of the tar."""


def write_tar(path: Path, samples: Sequence[TarSample]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, picture, meta in samples:
            members = {"png": picture, "json": json.dumps(meta).encode() if isinstance(meta, dict) else meta}
            for suffix, content in members.items():
                if content is not None:
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, BytesIO(content))
