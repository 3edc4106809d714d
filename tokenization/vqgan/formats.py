"""Finds and loads a VQ-GAN in any format of `FORMATS`."""

import json
from pathlib import Path

from torch import Tensor

from tokenization.errors import InputError
from tokenization.vqgan.published_formats import DIFFUSERS, LLAMAGEN_FILE, OPEN_MUSE, TAMING_FILE
from tokenization.vqgan.vqgan_format import Vqgan, VqganFiles, VqganFormat
from tokenization.vqgan.weight_files import read_checkpoint, read_json, read_safetensors

FORMATS: dict[str, VqganFormat] = {
    "diffusers": DIFFUSERS,
    "open-muse": OPEN_MUSE,
    "llamagen": LLAMAGEN_FILE,
    "taming": TAMING_FILE,
}
"""A folder has the format whose `class_name` is in its config.json. A file of tensors has the first format whose
`tensor_prefix` fits."""
SETTINGS_FILE = "image_tokenizer.json"
"""File next to the weights if a folder's pixel range is not that of its format: {"pixel_range": [0, 1]}."""
FILE_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
NOT_WEIGHTS = ("loss.", "quantize.codebook_used", "colorize")
"""Name prefixes of tensors that training checkpoints hold in addition to the model's."""


def find_vqgan(location: Path | str) -> VqganFiles:
    """Finds the VQ-GAN in the folder or file `location`. Reads no tensor.

    Raises:
        InputError: there is none, or a folder has several.
    """
    path = Path(location)
    if (path / "vqvae" / "config.json").exists():  # a pipeline's folder, such as aMUSEd's
        path = path / "vqvae"
    folder = path.parent if path.is_file() else path
    config, settings = folder / "config.json", folder / SETTINGS_FILE
    settings_files = tuple(file for file in (config, settings) if file.exists())
    class_name = read_json(config).get("_class_name") if config.exists() else None
    of_folder = next((name for name, kind in FORMATS.items() if class_name and kind.class_name == class_name), "")
    if path.is_file() and path.suffix in FILE_ENDINGS:  # the files next to it decide its format, as in a folder
        return VqganFiles(of_folder, path, settings_files)
    files = sorted(file for file in path.glob("*") if file.suffix in FILE_ENDINGS) if path.is_dir() else []
    if of_folder and (wanted := FORMATS[of_folder].weights_file):
        files = [file for file in files if file.name == wanted]
    if len(files) == 1 and (of_folder or class_name is None):
        return VqganFiles(of_folder, files[0], settings_files)
    found = f"; it has {len(files)} files of weights: name one" if len(files) > 1 else ""
    raise InputError(
        f"VQ-GAN {str(location)!r} is no saved VQModel (config.json and {DIFFUSERS.weights_file}), no folder of "
        f"open-muse's VQGANModel and no file of taming-transformers or LlamaGen{found}; train one with "
        "jobs/train_vqgan.py, or fetch one into a folder (hf download NAME --local-dir FOLDER)"
    )


def load_vqgan(location: Path | str) -> Vqgan:
    """Loads the VQ-GAN of a folder or a file.

    Raises:
        InputError: see `find_vqgan`; it is damaged or of another architecture; or a tensor is missing, unexpected or
            misshapen, and the message names the first one.
    """
    found = find_vqgan(location)
    read = read_safetensors if found.weights.suffix == ".safetensors" else read_checkpoint
    tensors = {name: value for name, value in read(found.weights).items() if not name.startswith(NOT_WEIGHTS)}
    name = found.format or _format_of(tensors)
    loaded = FORMATS[name].load(found, tensors)
    settings, pixel_range = found.weights.parent / SETTINGS_FILE, loaded.pixel_range
    if settings in found.settings_files:
        low, high = read_json(settings).get("pixel_range", pixel_range)
        pixel_range = float(low), float(high)
    return Vqgan(loaded.model.float().eval().requires_grad_(False), pixel_range, loaded.factor, name)


def save_vqgan(vqgan: Vqgan, folder: Path) -> None:
    """Writes a VQ-GAN with a diffusers model to a folder. `load_vqgan` restores it exactly."""
    vqgan.model.save_pretrained(folder)
    (folder / SETTINGS_FILE).write_text(json.dumps({"pixel_range": list(vqgan.pixel_range)}))


def _format_of(tensors: dict[str, Tensor]) -> str:
    bare = {name: kind.tensor_prefix for name, kind in FORMATS.items() if not kind.class_name}
    return next(name for name, prefix in bare.items() if any(tensor.startswith(prefix) for tensor in tensors))
