"""Finds and loads a VQ-GAN in any format of `FORMATS`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tokenization.config.vqgan import PIPELINE_PARTS, split_choice
from tokenization.errors import InputError
from tokenization.files.content import content_of_model_folder, content_of_tensors, what_file_is
from tokenization.vqgan.config_values import check_settings, explained
from tokenization.vqgan.maskgit_format import MASKGIT_FILE, OPEN_MUSE_MASKGIT
from tokenization.vqgan.network import VqganNetwork
from tokenization.vqgan.pixel_shuffle_format import PIXEL_SHUFFLE
from tokenization.vqgan.published_formats import (
    DIFFUSERS,
    GUMBEL_FILE,
    IBQ_FILE,
    LLAMAGEN_FILE,
    MOVQ_FILE,
    OPEN_MUSE,
    TAMING_FILE,
)
from tokenization.vqgan.vqgan_format import Vqgan, VqganFiles, VqganFormat
from tokenization.vqgan.weight_choice import LIT_EMA_CODEBOOK
from tokenization.vqgan.weight_files import WeightsRead, read_json, read_tensors

FORMATS: dict[str, VqganFormat] = {
    "diffusers": DIFFUSERS,
    "pixel-shuffle": PIXEL_SHUFFLE,
    "open-muse": OPEN_MUSE,
    "open-muse-maskgit": OPEN_MUSE_MASKGIT,
    "llamagen": LLAMAGEN_FILE,
    "maskgit": MASKGIT_FILE,
    "gumbel": GUMBEL_FILE,
    "movq": MOVQ_FILE,
    "taming": TAMING_FILE,
    "ibq": IBQ_FILE,
}
"""A folder has the format whose `class_name` is in its config.json. A file of tensors has the format that its settings
name, or the first one whose `tensor_prefix` fits. IBQ's tensors have taming's names and shapes: it must be named."""
FILE_FORMATS = tuple(name for name, kind in FORMATS.items() if not kind.class_name)
"""Formats that settings can name."""
SETTINGS_FILE = "image_tokenizer.json"
"""File next to the weights, for what they do not say: {"format": "ibq"} if the tensors' names do not decide the format,
{"pixel_range": [0, 1]} if that is not the format's, and {"weights": "ema"} or "plain" for the moving averages or the
weights themselves, where a file has both."""
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types of weights; others are of quantised models."""
FILE_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def find_vqgan(location: Path | str) -> VqganFiles:
    """Finds the VQ-GAN in the folder or file `location`, which may be followed by `#ema` or `#plain`. Reads no tensor.

    Raises:
        InputError: there is none, or a folder has several.
    """
    path, choice = split_choice(Path(location))
    path = next((path / part for part in PIPELINE_PARTS if (path / part / "config.json").exists()), path)
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
        "jobs/train_vqgan.py or of open-muse's VQGANModel or MaskGitVQGAN, and no file of taming-transformers, "
        "LlamaGen, IBQ, MoVQ or MaskGIT"
        f"{found}; {remedy}"
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
    check_settings(values, settings, () if found.format else FILE_FORMATS)
    named = found.format or values.get("format", "")
    if named:
        FORMATS[named].check(found)
    found = replace(found, choice=found.choice or values.get("weights", ""))
    weights = read_tensors(found.weights, found.choice, bool(named) and FORMATS[named].takes_averages)
    _check_numbers(weights.tensors, found)
    name = found.format or _format_of(weights, found, named)
    with explained(found.weights):
        loaded = FORMATS[name].load(found, weights.tensors)
    low, high = values.get("pixel_range", loaded.pixel_range)
    model = loaded.model.float().eval().requires_grad_(False)
    return Vqgan(model, (float(low), float(high)), loaded.factor, name, loaded.lookup, found)


def save_vqgan(vqgan: Vqgan, folder: Path) -> None:
    """Writes a folder that `load_vqgan` restores exactly.

    It is a diffusers folder where a `VQModel` computes the same, and else has the tensors as they were, with settings.
    """
    settings: dict[str, object] = {"pixel_range": list(vqgan.pixel_range)}
    if isinstance(vqgan.model, VqganNetwork) and vqgan.lookup is None:
        from diffusers import VQModel  # seconds, which whoever only encodes and decodes need not wait for

        model = VQModel.from_config(vqgan.model.values)
        model.load_state_dict(vqgan.model.state_dict())
        model.save_pretrained(folder)
    else:
        _save_as_it_was(vqgan, folder)
        if vqgan.format in FILE_FORMATS:
            settings["format"] = vqgan.format
    (folder / SETTINGS_FILE).write_text(json.dumps(settings))


def _save_as_it_was(vqgan: Vqgan, folder: Path) -> None:
    files, kind = vqgan.files, FORMATS[vqgan.format]
    weights = read_tensors(files.weights, files.choice, kind.takes_averages)
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in weights.tensors.items()}, folder / "model.safetensors")
    if kind.class_name:
        shutil.copy(files.weights.parent / "config.json", folder)


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


def _format_of(weights: WeightsRead, found: VqganFiles, named: str) -> str:
    """The format of a file of tensors: the one that the settings name, if its tensors may be of it."""
    tensors = weights.tensors
    if any(name.startswith("encoder.down_blocks.") for name in tensors):
        raise InputError(
            f"VQ-GAN {str(found.weights)!r} has the tensors of a diffusers VQModel, but there is no config.json of one "
            "beside it; put the model's config.json there"
        )
    prefixes = {name: FORMATS[name].tensor_prefix for name in FILE_FORMATS}
    fitting = next(name for name, prefix in prefixes.items() if any(tensor.startswith(prefix) for tensor in tensors))
    if named and prefixes[named] != prefixes[fitting]:
        raise InputError(
            f"{SETTINGS_FILE} beside VQ-GAN {str(found.weights)!r} has the format {named!r}, but its tensors are those "
            f"of {fitting!r}; leave format out"
        )
    if fitting == "taming" and not named and LIT_EMA_CODEBOOK in weights.names:
        raise InputError(
            f"VQ-GAN {str(found.weights)!r} may be IBQ's, whose codes have the largest dot product, or latent "
            'diffusion\'s, whose codes are the nearest: both name their tensors alike; put {"format": "ibq"} or '
            f'{{"format": "taming"}} into {SETTINGS_FILE} in its folder'
        )
    return named or fitting
