"""A trained VQ-GAN as an image tokenizer: pixels to codes and back.

Shape letters: B pictures, S side in px, N codes of a picture in raster order.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenization.config.vqgan import MAX_CODES
from tokenization.errors import InputError
from tokenization.vqgan.formats import SETTINGS_FILE, find_vqgan, load_vqgan
from tokenization.vqgan.lookup import Lookup
from tokenization.vqgan.vqgan_format import SYMMETRIC, UNIT

DECODE_BATCH = 8
"""Pictures that `decode_all` decodes at once. With 32, a CPU's caches overflow: each picture takes a third longer."""
TELLING_PSNR_DB, TELLING_GAIN_DB = 15.0, 2.0
"""The other pixel range is the right one if its round trip reaches the first value and is better by the second.
Untrained weights reach at most 10 dB in any range. The shipped ones lose 2.4 dB in the wrong one."""


class ImageTokenizer:
    """Encodes and decodes with a VQ-GAN in any of the formats of `tokenization.vqgan.formats`.

    Args:
        folder: its folder or file.
        device: the device that it runs on.
        dtype: dtype of encoder and decoder.
        compile_encoder: compile the encoder for each new shape of pictures, which takes a minute each. A code can
            differ from the uncompiled encoder's if two codes are about equally near.

    Raises:
        InputError: see `load_vqgan`.
    """

    def __init__(
        self,
        folder: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        compile_encoder: bool = False,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        loaded = load_vqgan(folder)
        self.pixel_range = loaded.pixel_range
        """Values of black and white in the encoder's input and the decoder's output."""
        self.factor = loaded.factor
        """Pixels per code along one side."""
        # In float32: rounded rows of a normalised codebook would no longer have equal lengths.
        self._lookup = (loaded.lookup or Lookup.nearest(loaded.model.quantize.embedding.weight)).to(self.device)
        self._vqgan = loaded.model.to(self.device, dtype)
        self._codes = torch.compile(self._nearest_codes, dynamic=False) if compile_encoder else self._nearest_codes
        if self.device.type == "cuda":  # GPU convolutions run on tensor cores in this memory format
            to: Any = self._vqgan.to  # torch's types have no overload for the memory format
            to(memory_format=torch.channels_last)

    @property
    def codebook_size(self) -> int:
        return len(self._lookup.biases_K)

    @torch.no_grad()
    def encode(self, pixels_BSS3: np.ndarray) -> np.ndarray:
        """Encodes pictures uint8 [B, S, S, 3] to codes int64 [B, N], N = (S / factor)^2.

        Raises:
            InputError: a latent is not finite, or all are the same although the pictures are not.
        """
        pixels = torch.from_numpy(pixels_BSS3).to(self.device)
        codes, is_finite, is_constant = self._codes(pixels)
        if not is_finite:  # the nearest code of a latent that is no number would be 0
            raise InputError(
                f"the VQ-GAN's encoder gives latents that are not finite in {self._dtype_name}; set another "
                "encoder_dtype (float32 is the safest), or take other weights"
            )
        if is_constant and _has_other_patches(pixels_BSS3, self.factor):
            raise InputError(
                f"the VQ-GAN's encoder gives the same latent everywhere in {self._dtype_name}, whatever the picture; "
                "take other weights"
            )
        return codes.view(len(pixels), -1).cpu().numpy()

    @property
    def _dtype_name(self) -> str:
        return f"{self.dtype}".removeprefix("torch.")

    def _nearest_codes(self, pixels_BSS3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The codes, and whether all latents are finite, and whether all are the same."""
        pixels = pixels_BSS3.permute(0, 3, 1, 2)  # already channels last in memory
        low, high = self.pixel_range
        latents = self._vqgan.encode(pixels.to(self.dtype) / (255 / (high - low)) + low)
        flat = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).float()
        return self._lookup.codes_of(flat), flat.isfinite().all(), (flat.amax(0) == flat.amin(0)).all()

    @torch.no_grad()
    def decode(self, codes_BN: np.ndarray) -> np.ndarray:
        """Decodes codes [B, N] of square pictures to pixels uint8 [B, S, S, 3]."""
        grid = round(codes_BN.shape[1] ** 0.5)
        index = torch.from_numpy(codes_BN.astype(np.int64)).to(self.device)
        latents = self._vqgan.quantize.embedding.weight[index].view(len(index), grid, grid, -1).permute(0, 3, 1, 2)
        pixels = self._vqgan.decode(latents)
        low, high = self.pixel_range
        scaled = (pixels.float() - low) * (255 / (high - low))
        pixels_BSS3: np.ndarray = scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        return pixels_BSS3

    def decode_all(self, codes_BN: np.ndarray, batch_size: int = DECODE_BATCH) -> np.ndarray:
        """As `decode`, for any number of pictures. Another `batch_size` can round pixels differently."""
        return np.concatenate(
            [self.decode(codes_BN[start : start + batch_size]) for start in range(0, len(codes_BN), batch_size)]
        )


def check_pixel_range(folder: Path | str, vqgan: ImageTokenizer) -> None:
    """Encodes and decodes a picture, in the format's pixel range and in the other one.

    Raises:
        InputError: the weights were clearly trained on the other range.
    """
    picture = _test_picture(8 * vqgan.factor)[None]
    stated = vqgan.pixel_range
    by_range = {}
    for pixel_range in (stated, UNIT if stated == SYMMETRIC else SYMMETRIC):
        vqgan.pixel_range = pixel_range
        by_range[pixel_range] = _psnr_db(vqgan.decode(vqgan.encode(picture)), picture)
    vqgan.pixel_range = stated
    (_, own), (other_range, other) = by_range.items()
    if other >= TELLING_PSNR_DB and other >= own + TELLING_GAIN_DB:
        own_range, right = (f"from {low:g} to {high:g}" for low, high in by_range)
        raise InputError(
            f"VQ-GAN {str(folder)!r} keeps a test picture at {own:.1f} dB with pixels {own_range}, which its format "
            f"implies, and at {other:.1f} dB {right}; put {json.dumps({'pixel_range': list(other_range)})} into "
            f"{SETTINGS_FILE} in its folder"
        )


def check_codebook(folder: Path | str, vqgan: ImageTokenizer) -> None:
    """Raises InputError if the VQ-GAN has more codes than the token table can hold."""
    if vqgan.codebook_size > MAX_CODES:
        raise InputError(
            f"VQ-GAN {str(folder)!r} has {vqgan.codebook_size:,} codes, and the token table holds at most "
            f"{MAX_CODES:,}; name another VQ-GAN"
        )


def check_latents(folder: Path | str, vqgan: ImageTokenizer, sizes_px: Iterable[int]) -> None:
    """Encodes a test picture of each size with the device and the dtype that the tokenizer has.

    Raises:
        InputError: see `ImageTokenizer.encode`.
    """
    for size_px in sizes_px:
        try:
            vqgan.encode(_test_picture(size_px)[None])
        except InputError as error:
            raise InputError(f"VQ-GAN {str(folder)!r} cannot encode a test picture of {size_px} px: {error}") from error


def image_tokenizer_sha256(folder: Path | str) -> str:
    """A hash for the fingerprint: of the weights, and of the other files that decide codes and pixels."""
    found, digest = find_vqgan(folder), hashlib.sha256()
    digest.update(found.choice.encode())
    for path in (*found.settings_files, found.weights):
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # adds to it
    return digest.hexdigest()


def _has_other_patches(pixels_BSS3: np.ndarray, factor: int) -> bool:
    """True if the pictures have patches, one for each code, that differ."""
    count, side = len(pixels_BSS3), pixels_BSS3.shape[1] // factor
    patches = pixels_BSS3.reshape(count, side, factor, side, factor, 3).swapaxes(2, 3)
    return bool((patches != patches[:1, :1, :1]).any())


def _test_picture(side: int) -> np.ndarray:
    """A yellow disc with a black and a red spot on white, uint8 [side, side, 3]: it has large and small areas, as any
    picture does."""
    across, down = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    picture = np.full((side, side, 3), 255, np.uint8)
    for colour, x, y, radius in (
        ((252, 202, 40), 0, 0, 0.8),
        ((20, 20, 20), -0.3, -0.2, 0.2),
        ((220, 40, 40), 0.2, 0.3, 0.3),
    ):
        picture[np.hypot(across - x, down - y) < radius] = colour
    return picture


def _psnr_db(pixels: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.square(pixels.astype(float) - truth).mean(), 1e-9)))
