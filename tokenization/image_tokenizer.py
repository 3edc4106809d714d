"""A trained VQ-GAN as an image tokenizer: pixels to codes and back.

Shape letters: B pictures, S side in px, N codes of a picture in raster order.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import VQModel

from tokenization.errors import InputError

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
SHIPPED = Path(__file__).parent / "openmoji_vqgan"
"""The demo's VQ-GAN, trained on the demo's corpus by `jobs/train_vqgan.py`."""


class ImageTokenizer:
    """Encodes and decodes with a diffusers `VQModel` folder whose pixels run from -1 to 1.

    Args:
        folder: as `VQModel.save_pretrained` writes it.
        device: where it runs.
        dtype: arithmetic of encoder and decoder.
        compile_encoder: compile the encoder for each shape of pictures that comes, a minute each. A code can differ
            from the uncompiled one's where two are about as near.

    Raises:
        InputError: `folder` does not exist or is no `VQModel`.
    """

    def __init__(
        self,
        folder: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        compile_encoder: bool = False,
    ) -> None:
        check_image_tokenizer(folder)
        self.device, self.dtype = torch.device(device), dtype
        # low_cpu_mem_usage would ask for accelerate, on the console, every time.
        vqgan = VQModel.from_pretrained(folder, torch_dtype=dtype, local_files_only=True, low_cpu_mem_usage=False)
        self._vqgan = vqgan.to(self.device).eval()
        self._codes = torch.compile(self._nearest_codes, dynamic=False) if compile_encoder else self._nearest_codes
        if self.device.type == "cuda":  # whose convolutions run on tensor cores in this order
            self._vqgan.to(memory_format=torch.channels_last)

    @property
    def codebook_size(self) -> int:
        """Codes of the codebook."""
        return int(self._vqgan.config.num_vq_embeddings)

    @property
    def factor(self) -> int:
        """Pixels to a code, along one side."""
        return int(2 ** (len(self._vqgan.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode(self, pixels_BSS3: np.ndarray) -> np.ndarray:
        """Pictures uint8 [B, S, S, 3] to codes int64 [B, N], N = (S / factor)^2."""
        pixels = torch.from_numpy(pixels_BSS3).to(self.device)
        return self._codes(pixels).view(len(pixels), -1).cpu().numpy()

    def _nearest_codes(self, pixels_BSS3: torch.Tensor) -> torch.Tensor:
        pixels = pixels_BSS3.permute(0, 3, 1, 2)  # in memory already channels last
        latents = self._vqgan.quant_conv(self._vqgan.encoder(pixels.to(self.dtype) / 127.5 - 1))
        flat = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).float()
        codebook = self._vqgan.quantize.embedding.weight.float()
        # argmin of the squared distance; the latent's own square does not change it.
        return (codebook.square().sum(1) - 2 * flat @ codebook.T).argmin(1)

    @torch.no_grad()
    def decode(self, codes_BN: np.ndarray) -> np.ndarray:
        """Codes [B, N] of square pictures to pixels uint8 [B, S, S, 3]."""
        grid = round(codes_BN.shape[1] ** 0.5)
        index = torch.from_numpy(codes_BN.astype(np.int64)).to(self.device)
        latents = self._vqgan.quantize.embedding.weight[index].view(len(index), grid, grid, -1).permute(0, 3, 1, 2)
        pixels = self._vqgan.decoder(self._vqgan.post_quant_conv(latents))
        return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def check_image_tokenizer(folder: Path | str) -> None:
    """Raises InputError where `folder` is not a saved `VQModel`."""
    if not (Path(folder) / WEIGHTS_FILE).exists() or not (Path(folder) / "config.json").exists():
        raise InputError(
            f"VQ-GAN {str(folder)!r} is no saved VQModel (config.json and {WEIGHTS_FILE}); "
            "train one with jobs/train_vqgan.py"
        )


def image_tokenizer_sha256(folder: Path | str) -> str:
    """A hash of the weights and of the config, for the fingerprint."""
    check_image_tokenizer(folder)
    digest = hashlib.sha256((Path(folder) / "config.json").read_bytes())
    digest.update((Path(folder) / WEIGHTS_FILE).read_bytes())
    return digest.hexdigest()
