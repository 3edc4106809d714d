"""Finds and loads a VQ-GAN in any format of `FORMATS`."""

import json
from pathlib import Path

import torch
from torch import Tensor

from tokenization.config.vqgan import split_choice
from tokenization.errors import InputError
from tokenization.files.content import content_of_model_folder, content_of_tensors, what_file_is
from tokenization.vqgan.config_values import check_settings, explained
from tokenization.vqgan.published_formats import DIFFUSERS, LLAMAGEN_FILE, OPEN_MUSE, TAMING_FILE
from tokenization.vqgan.vqgan_format import Vqgan, VqganFiles, VqganFormat
from tokenization.vqgan.weight_files import read_json, read_tensors

FORMATS: dict[str, VqganFormat] = {
    "diffusers": DIFFUSERS,
    "open-muse": OPEN_MUSE,
    "llamagen": LLAMAGEN_FILE,
    "taming": TAMING_FILE,
}
"""A folder has the format whose `class_name` is in its config.json. A file of tensors has the first format whose
`tensor_prefix` fits."""
SETTINGS_FILE = "image_tokenizer.json"
"""File next to the weights, for what they do not say: {"pixel_range": [0, 1]} if that is not the format's, and
{"weights": "ema"} or "plain" for the moving averages or the weights themselves, where a file has both."""
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types of weights; others are of quantised models."""
FILE_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def find_vqgan(location: Path | str) -> VqganFiles:
    """Finds the VQ-GAN in the folder or file `location`, which may be followed by `#ema` or `#plain`. Reads no tensor.

    Raises:
        InputError: there is none, or a folder has several.
    """
    path, choice = split_choice(Path(location))
    if (path / "vqvae" / "config.json").exists():  # a pipeline's folder, such as aMUSEd's
        path = path / "vqvae"
    folder = path.parent if path.is_file() else path
    config, settings = folder / "config.json", folder / SETTINGS_FILE
    settings_files = tuple(file for file in (config, settings) if file.exists())
    class_name = read_json(config).get("_class_name") if config.exists() else None
    of_folder = next((name for name, kind in FORMATS.items() if class_name and kind.class_name == class_name), "")
    if path.is_file() and path.suffix in FILE_ENDINGS:  # the files next to it decide its format, as in a folder
        return VqganFiles(of_folder, path, settings_files, choice)
    files = sorted(file for file in path.glob("*") if file.suffix in FILE_ENDINGS) if path.is_dir() else []
    if of_folder and (wanted := FORMATS[of_folder].weights_files):
        names = [file.name for file in files]
        files = [path / next(name for name in wanted if name in names)] if set(wanted) & set(names) else []
    if len(files) == 1 and (of_folder or class_name is None):
        return VqganFiles(of_folder, files[0], settings_files, choice)
    remedy = (
        "name its folder with vqgan_folder, train one with jobs/train_vqgan.py, or fetch one (hf download NAME "
        "--local-dir FOLDER)"
    )
    if not path.exists():
        raise InputError(f"VQ-GAN {str(location)!r} does not exist; {remedy}")
    found = f"; {what_file_is(path)}" if path.is_file() else _why_none(path, files, class_name)
    raise InputError(
        f"VQ-GAN {str(location)!r} is no saved VQModel (config.json and {DIFFUSERS.weights_files[0]}), no folder of "
        f"open-muse's VQGANModel and no file of taming-transformers or LlamaGen{found}; {remedy}"
    )


def _why_none(folder: Path, files: list[Path], class_name: str | None) -> str:
    """What is known of a folder without a VQ-GAN, as part of a message."""
    if another := content_of_model_folder(folder):
        return f"; it is {another}"
    if parts := next(folder.glob("*.index.json"), None):
        return f"; {parts.name} lists several files of weights: save the model in one (max_shard_size)"
    if len(files) > 1:
        return f"; it has {len(files)} files of weights: name one"
    return f"; its config.json is of the class {class_name!r}" if class_name else ""


def load_vqgan(location: Path | str) -> Vqgan:
    """Loads the VQ-GAN of a folder or a file.

    Raises:
        InputError: see `find_vqgan`; it is damaged or of another architecture; or a tensor is missing, unexpected or
            misshapen, and the message names the first one.
    """
    found = find_vqgan(location)
    settings = found.weights.parent / SETTINGS_FILE
    values = read_json(settings) if settings in found.settings_files else {}
    check_settings(values, settings)
    if found.format:
        FORMATS[found.format].check(found)
    tensors = read_tensors(found.weights, found.choice or values.get("weights", ""))
    _check_numbers(tensors, found)
    name = found.format or _format_of(tensors, found)
    with explained(found.weights):
        loaded = FORMATS[name].load(found, tensors)
    low, high = values.get("pixel_range", loaded.pixel_range)
    model = loaded.model.float().eval().requires_grad_(False)
    return Vqgan(model, (float(low), float(high)), loaded.factor, name)


def save_vqgan(vqgan: Vqgan, folder: Path) -> None:
    """Writes a VQ-GAN as a diffusers folder. `load_vqgan` restores it exactly."""
    from diffusers import VQModel  # seconds, which whoever only encodes and decodes need not wait for

    model = VQModel.from_config(vqgan.model.values)
    model.load_state_dict(vqgan.model.state_dict())
    model.save_pretrained(folder)
    (folder / SETTINGS_FILE).write_text(json.dumps({"pixel_range": list(vqgan.pixel_range)}))


def _check_numbers(tensors: dict[str, Tensor], found: VqganFiles) -> None:
    """Raises InputError if the tensors are of another kind of model, or no finite floating-point numbers."""
    if another := content_of_tensors(tensors):
        raise InputError(f"VQ-GAN {str(found.weights)!r} is {another}")
    for name, value in tensors.items():
        if value.dtype not in DTYPES:
            kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise InputError(
                f"VQ-GAN {str(found.weights)!r}: tensor {name!r} is of type {str(value.dtype).removeprefix('torch.')}, "
                f"weights are {kinds}; name the model that was not quantized"
            )
        if not value.isfinite().all():
            raise InputError(
                f"VQ-GAN {str(found.weights)!r}: tensor {name!r} has values that are not finite; fetch it again"
            )


def _format_of(tensors: dict[str, Tensor], found: VqganFiles) -> str:
    if any(name.startswith("encoder.down_blocks.") for name in tensors):
        raise InputError(
            f"VQ-GAN {str(found.weights)!r} has the tensors of a diffusers VQModel, but there is no config.json of one "
            "beside it; put the model's config.json there"
        )
    bare = {name: kind.tensor_prefix for name, kind in FORMATS.items() if not kind.class_name}
    return next(name for name, prefix in bare.items() if any(tensor.startswith(prefix) for tensor in tensors))
