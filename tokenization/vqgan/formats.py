"""VQ-GANs in the formats they are published in, all as a diffusers `VQModel`.

Four formats: a diffusers `VQModel` folder (aMUSEd's too), a folder of open-muse's `VQGANModel`, a taming-transformers
checkpoint, and LlamaGen's. The last three are the same architecture under other names, so their tensors are renamed.
Widths, codebook and attention are read from the tensors themselves; no config of theirs is needed, and no code of
theirs runs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import VQModel
from torch import Tensor
from torch.nn import functional as F

from tokenization.errors import InputError
from tokenization.vqgan.names import LLAMAGEN, TAMING, Names, geometry_of
from tokenization.vqgan.weight_files import read_checkpoint, read_safetensors

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
"""Of a diffusers folder."""
SETTINGS_FILE = "image_tokenizer.json"
"""Beside the weights, where a folder's pixel range is not what its format implies: {"pixel_range": [0, 1]}."""
FILE_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
SYMMETRIC, UNIT = (-1.0, 1.0), (0.0, 1.0)
PIXEL_RANGES = {"diffusers": SYMMETRIC, "open-muse": UNIT, "taming": SYMMETRIC, "llamagen": SYMMETRIC}
"""What each project feeds its encoder: open-muse what torchvision's ToTensor makes, the others twice that minus one."""
NOT_WEIGHTS = ("loss.", "quantize.codebook_used", "colorize")
"""Beginnings of what training checkpoints hold beside the model."""


@dataclass(frozen=True)
class Vqgan:
    """A VQ-GAN, as diffusers has it.

    Attributes:
        model: float32, on the CPU. A normalised codebook's rows have length 1: the nearest of them is the nearest in
            angle, whatever the length of the latent.
        pixel_range: values of black and white.
        format: which of `PIXEL_RANGES`.
    """

    model: VQModel
    pixel_range: tuple[float, float]
    format: str


@dataclass(frozen=True)
class VqganPlace:
    """Where a VQ-GAN lies.

    Attributes:
        format: which of `PIXEL_RANGES`; `file` where the tensors' names will tell.
        weights: the file of tensors.
        beside: other files that decide what comes out.
    """

    format: str
    weights: Path
    beside: tuple[Path, ...] = ()


def find_vqgan(place: Path | str) -> VqganPlace:
    """Looks for a VQ-GAN in a folder, or takes the file that `place` is.

    Raises:
        InputError: there is none, or a folder has several.
    """
    path = Path(place)
    if (path / "vqvae" / "config.json").exists():  # a pipeline's folder, as aMUSEd's
        path = path / "vqvae"
    folder = path.parent if path.is_file() else path
    config, settings = folder / "config.json", folder / SETTINGS_FILE
    beside = tuple(file for file in (config, settings) if file.exists())
    name = _read_json(config).get("_class_name") if config.exists() else None
    if path.is_file() and path.suffix in FILE_ENDINGS:  # what lies beside it says what it is, as in a folder
        return VqganPlace("open-muse" if name == "VQGANModel" else "file", path, beside)
    if name == "VQModel" and (path / WEIGHTS_FILE).exists():
        return VqganPlace("diffusers", path / WEIGHTS_FILE, beside)
    files = sorted(file for file in path.glob("*") if file.suffix in FILE_ENDINGS) if path.is_dir() else []
    if len(files) == 1 and name in (None, "VQGANModel"):
        return VqganPlace("open-muse" if name else "file", files[0], beside)
    found = f"; it has {len(files)} files of weights: name one" if len(files) > 1 else ""
    raise InputError(
        f"VQ-GAN {str(place)!r} is no saved VQModel (config.json and {WEIGHTS_FILE}), no folder of open-muse's "
        f"VQGANModel and no file of taming-transformers or LlamaGen{found}; train one with jobs/train_vqgan.py, or "
        "fetch one into a folder (hf download NAME --local-dir FOLDER)"
    )


def load_vqgan(place: Path | str) -> Vqgan:
    """The VQ-GAN that lies there.

    Raises:
        InputError: see `find_vqgan`; it is damaged, of another architecture, or the message names the first of its
            tensors that is missing, unexpected or misshapen.
    """
    found = find_vqgan(place)
    read = read_safetensors if found.weights.suffix == ".safetensors" else read_checkpoint
    tensors = {name: value for name, value in read(found.weights).items() if not name.startswith(NOT_WEIGHTS)}
    kind = found.format
    if kind == "diffusers":
        model, names = _diffusers_model(found), None
        tensors = {_current_name(name): value for name, value in tensors.items()}
    else:
        is_llamagen = any(name.startswith("encoder.conv_blocks.") for name in tensors)
        names = LLAMAGEN if is_llamagen else TAMING
        if kind == "file":
            kind = "llamagen" if is_llamagen else "taming"
        config = geometry_of(tensors, names, str(place))
        if (
            kind == "open-muse"
            and config["layers_per_block"] == 1
            and "AttnDownEncoderBlock2D" in config["down_block_types"]
        ):
            raise InputError(
                f"VQ-GAN {str(place)!r} has one block a level with attention, which open-muse then leaves out; "
                "no other code gives the same"
            )
        model = _empty(config)
    model.load_state_dict(_renamed(model, tensors, names, str(place)), assign=True)
    if kind == "llamagen":
        model.quantize.embedding.weight.data = F.normalize(model.quantize.embedding.weight.data, dim=-1)
    return Vqgan(model.float().eval().requires_grad_(False), _pixel_range(found, kind, model), kind)


def save_vqgan(vqgan: Vqgan, folder: Path) -> None:
    """Writes it as a diffusers folder that `load_vqgan` takes for the same."""
    vqgan.model.save_pretrained(folder)
    (folder / SETTINGS_FILE).write_text(json.dumps({"pixel_range": list(vqgan.pixel_range)}))


def _diffusers_model(found: VqganPlace) -> VQModel:
    config = _read_json(found.beside[0])
    if config.get("norm_type", "group") != "group":
        raise InputError(
            f"VQ-GAN {str(found.weights.parent)!r} has norm_type {config['norm_type']!r}, whose decoder sees the codes "
            "twice; only 'group' is supported"
        )
    return _empty(config)


def _empty(config: dict[str, Any]) -> VQModel:
    with torch.device("meta"):
        return VQModel.from_config(config)


def _renamed(model: VQModel, tensors: dict[str, Tensor], names: Names | None, place: str) -> dict[str, Tensor]:
    """The tensors under diffusers' names, each in its shape there."""
    state, used, num_levels = {}, set(), len(model.config.block_out_channels)
    for name, empty in model.state_dict().items():
        source = names.source(name, num_levels) if names else name
        if source not in tensors:
            raise InputError(f"VQ-GAN {place!r}: tensor {source!r} is missing; fetch the whole file again")
        value = tensors[source]
        squeezed = value[:, :, 0, 0] if value.dim() == 4 and empty.dim() == 2 and value.shape[2:] == (1, 1) else value
        if squeezed.shape != empty.shape:
            raise InputError(
                f"VQ-GAN {place!r}: tensor {source!r} has shape {tuple(value.shape)}, the others ask for "
                f"{tuple(empty.shape)}; fetch the file again"
            )
        state[name] = squeezed.float().contiguous()
        used.add(source)
    if unexpected := sorted(tensors.keys() - used):
        raise InputError(
            f"VQ-GAN {place!r}: tensor {unexpected[0]!r} is unexpected; what has it is of another architecture"
        )
    return state


def _pixel_range(found: VqganPlace, kind: str, model: VQModel) -> tuple[float, float]:
    settings = found.weights.parent / SETTINGS_FILE
    if settings in found.beside:
        low, high = _read_json(settings).get("pixel_range", PIXEL_RANGES[kind])
        return float(low), float(high)
    if kind == "diffusers" and model.config.lookup_from_codebook:  # aMUSEd, which is open-muse's
        return UNIT
    return PIXEL_RANGES[kind]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not readable: {error}; fetch it again") from error
    return values if isinstance(values, dict) else {}


def _current_name(name: str) -> str:
    """Attention's names before diffusers 0.15."""
    if ".attentions." in name:
        for old, new in (
            (".query.", ".to_q."),
            (".key.", ".to_k."),
            (".value.", ".to_v."),
            (".proj_attn.", ".to_out.0."),
        ):
            name = name.replace(old, new)
    return name
