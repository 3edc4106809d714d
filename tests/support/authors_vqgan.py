"""What the classes of other projects make of weights drawn from a seed, kept to compare the package with.

None of their code is here. To make a file anew, from a checkout of the project's repository:

    python -m tests.support.authors_vqgan gumbel CHECKOUT    # github.com/CompVis/taming-transformers at 3ba01b2
    python -m tests.support.authors_vqgan ibq CHECKOUT    # github.com/TencentARC/SEED-Voken at b9a17ea
    python -m tests.support.authors_vqgan maskgit CHECKOUT    # github.com/google-research/maskgit at 1db2359
    python -m tests.support.authors_vqgan movq CHECKOUT    # github.com/ai-forever/MoVQGAN at f3976d8

The weights are not kept, only the tensors' names and shapes: `drawn_weights` draws them again.
"""

import json
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

KEPT = Path(__file__).parents[1] / "tokenization" / "vqgan" / "authors"
SIDE_PX, BLOCK_PX = 64, 8
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Kept:
    """What a project's classes gave, and the shapes of its checkpoint's tensors.

    `codes` int64 [B, N] are those of `pictures()`, `pixels` uint8 [B, S, S, 3] are decoded from them.
    """

    shapes: Shapes
    codes: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of(cls, name: str) -> "Kept":
        with safe_open(KEPT / f"{name}.safetensors", "pt") as file:
            codes, pixels = (file.get_tensor(part).numpy() for part in ("codes", "pixels"))
            shapes = json.loads(file.metadata()["shapes"])
        return cls({one: tuple(shape) for one, shape in shapes.items()}, codes.astype(np.int64), pixels)

    def save(self, name: str) -> None:
        tensors = {"codes": torch.from_numpy(self.codes.astype(np.int32)), "pixels": torch.from_numpy(self.pixels)}
        KEPT.mkdir(exist_ok=True)
        save_file(tensors, KEPT / f"{name}.safetensors", {"shapes": json.dumps(self.shapes, separators=(",", ":"))})


def pictures() -> np.ndarray:
    """Blocks of random colours, uint8 [2, S, S, 3]."""
    side = SIDE_PX // BLOCK_PX
    blocks = np.random.RandomState(2).randint(0, 256, (2, side, side, 3))
    return blocks.repeat(BLOCK_PX, 1).repeat(BLOCK_PX, 2).astype(np.uint8)


def drawn_weights(shapes: Shapes) -> dict[str, Tensor]:
    """Weights of these shapes, the same with every version of NumPy and torch, under which signals keep their scale."""
    random, weights = np.random.RandomState(5), {}
    for name, shape in shapes.items():
        value = random.standard_normal(shape)
        if name.endswith("bias"):
            value = 0.2 * value
        elif len(shape) == 1:
            value = 1 + 0.2 * value
        elif "embed" not in name:
            value = value / np.prod(shape[1:]) ** 0.5
        weights[name] = torch.from_numpy(np.asarray(value, np.float32))
    return weights


@torch.no_grad()
def ibq(checkout: Path) -> Kept:
    """IBQ, evaluated as in its `reconstruct_image.py`: with the moving averages."""
    without_trainers(checkout)
    from src.IBQ.models.ibqgan import IBQ

    model = IBQ(TAMING_SIZES, {"target": ""}, n_embed=512, embed_dim=24, use_ema=True).eval()
    shapes = filled(model)

    def decode(codes: Tensor, grid: int) -> Tensor:
        pixels: Tensor = model.decode(model.quantize.get_codebook_entry(codes.flatten(), (len(codes), grid, grid, 24)))
        return pixels

    with model.ema_scope():
        return results(shapes, lambda pixels: model.encode(pixels)[2][2].view(len(pixels), -1), decode)


@torch.no_grad()
def gumbel(checkout: Path) -> Kept:
    """taming-transformers' GumbelVQ, which halves the picture three times; of its logits the largest."""
    without_trainers(checkout)
    from taming.models.vqgan import GumbelVQ

    sizes = TAMING_SIZES | {"ch_mult": [1, 2, 2, 3], "attn_resolutions": [32]}
    model = GumbelVQ(sizes, {}, n_embed=512, embed_dim=24, temperature_scheduler_config={}).eval()

    def encode(pixels: Tensor) -> Tensor:
        logits: Tensor = model.quantize(model.encode_to_prequant(pixels), return_logits=True)[3]
        return logits.argmax(1).flatten(1)

    def decode(codes: Tensor, grid: int) -> Tensor:
        pixels: Tensor = model.decode(model.quantize.get_codebook_entry(codes.flatten(), (len(codes), grid, grid, 24)))
        return pixels

    return results(filled(model), encode, decode)


def maskgit(checkout: Path) -> Kept:
    """MaskGIT's VQVAE, in JAX (`pip install jax flax ml_collections`); the tensors are named as in open-muse's copy."""
    sys.path.insert(0, str(checkout))
    import jax
    from flax.traverse_util import flatten_dict, unflatten_dict
    from maskgit.configs.vqgan_config import get_config
    from maskgit.nets.vqgan_tokenizer import VQVAE

    config = get_config()
    sizes = {"codebook_size": 512, "filters": 32, "embedding_dim": 24, "channel_multipliers": [1, 1, 2, 2, 3]}
    config.vqvae.update(sizes)
    model = VQVAE(config=config, train=False)

    def both_ways(model: Any, pixels: Any) -> Any:
        return model.decode(model.encode({"image": pixels})[0])

    empty = jax.eval_shape(partial(model.init, method=both_ways), jax.random.PRNGKey(0), np.zeros((1, 64, 64, 3)))
    flat = flatten_dict(empty["params"])
    names = open_muse_names(flat, num_levels=5, num_blocks=config.vqvae.num_res_blocks)
    order = {names[place]: tuple(np.array(value.shape)[TO_TORCH[value.ndim]]) for place, value in flat.items()}
    shapes = {name: tuple(map(int, shape)) for name, shape in order.items()}
    weights = drawn_weights(shapes)
    params = {place: weights[names[place]].permute(TO_FLAX[value.ndim]).numpy() for place, value in flat.items()}
    variables = {"params": unflatten_dict(params)}

    def encode(pixels: Tensor) -> Tensor:
        codes = model.apply(variables, pixels.permute(0, 2, 3, 1).numpy(), method=model.encode_to_indices)
        return torch.from_numpy(np.array(codes)).flatten(1)

    def decode(codes: Tensor, grid: int) -> Tensor:
        pixels = model.apply(variables, codes.view(-1, grid, grid).numpy(), method=model.decode_from_indices)
        return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)

    return results(shapes, encode, decode, (0, 1))


@torch.no_grad()
def movq(checkout: Path) -> Kept:
    """MoVQGAN's MOVQ, with the averages beside it that it keeps and does not take."""
    without_trainers(checkout)
    package: Any = types.ModuleType("movqgan")  # its own __init__ downloads
    package.__path__ = [str(checkout / "movqgan")]
    sys.modules["movqgan"] = package
    from movqgan.models.vqgan import MOVQ

    sizes = TAMING_SIZES | {"z_channels": 4}
    model = MOVQ(sizes, n_embed=512, embed_dim=4, ema_decay=0.999).eval()
    shapes = filled(model)

    def decode(codes: Tensor, grid: int) -> Tensor:
        pixels: Tensor = model.decode(model.quantize.get_codebook_entry(codes.flatten(), (len(codes), grid, grid, 4)))
        return pixels

    return results(shapes, lambda pixels: model.encode(pixels)[2][2].view(len(pixels), -1), decode)


TO_TORCH, TO_FLAX = {1: [0], 2: [0, 1], 4: [3, 2, 0, 1]}, {1: [0], 2: [0, 1], 4: [2, 3, 1, 0]}
"""Orders of a tensor's dimensions, by their number."""


def open_muse_names(places: Iterable[tuple[str, ...]], num_levels: int, num_blocks: int) -> dict[tuple[str, ...], str]:
    """The names in open-muse's `MaskGitVQGAN`, by the places of flax's parameters, numbered as they are used."""
    levels, blocks = range(num_levels), range(num_blocks)
    mid = [f"mid.{block}" for block in blocks]
    of_half = {
        "encoder": ([*(f"down.{level}.block.{block}" for level in levels for block in blocks), *mid], []),
        "decoder": (
            [*mid, *(f"up.{level}.block.{block}" for level in reversed(levels) for block in blocks)],
            [f"up.{level}.upsample_conv" for level in reversed(levels[1:])],
        ),
    }
    parts = {"GroupNorm_0": "norm1", "Conv_0": "conv1", "GroupNorm_1": "norm2", "Conv_1": "conv2"}
    parts |= {"Conv_2": "nin_shortcut"}
    names = {}
    for place in places:
        half, *middle, leaf = place
        if half == "quantizer":
            names[place] = "quantize.embedding.weight"
            continue
        of_blocks, of_convs = of_half[half]
        kind, number = middle[0].split("_")
        match kind:
            case "ResBlock":
                inner = f"{of_blocks[int(number)]}.{parts[middle[1]]}"
            case "Conv":
                inner = ["conv_in", *of_convs, "conv_out"][int(number)]
            case _:
                inner = "norm_out"
        names[place] = f"{half}.{inner}.{'bias' if leaf == 'bias' else 'weight'}"
    return names


TAMING_SIZES = {
    **{"double_z": False, "z_channels": 24, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32},
    **{"ch_mult": [1, 1, 2, 2, 3], "num_res_blocks": 1, "attn_resolutions": [16], "dropout": 0.0},
}
"""Of a model that halves the picture four times, with attention at the last level."""
PROJECTS: dict[str, Callable[[Path], Kept]] = {"gumbel": gumbel, "ibq": ibq, "maskgit": maskgit, "movq": movq}


def without_trainers(checkout: Path) -> None:
    """Lets a project's models be imported without the library that trains them and without their losses."""
    sys.path.insert(0, str(checkout))
    trainer: Any = types.ModuleType("trainer")
    trainer.LightningModule = nn.Module
    main: Any = types.ModuleType("main")
    main.instantiate_from_config = lambda config: nn.Identity()
    sys.modules |= {"pytorch_lightning": trainer, "lightning": trainer, "main": main}


def filled(model: nn.Module) -> Shapes:
    """Gives the model the drawn weights, and returns their shapes."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if value.dim()}
    model.load_state_dict(drawn_weights(shapes), strict=False)
    return shapes


def results(
    shapes: Shapes,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor, int], Tensor],
    pixel_range: tuple[float, float] = (-1, 1),
) -> Kept:
    """What a model gives: `encode` maps pixels [B, 3, S, S] to codes [B, N], `decode` codes and N^0.5 to pixels."""
    low, high = pixel_range
    pixels = torch.from_numpy(pictures()).permute(0, 3, 1, 2).float() / 255 * (high - low) + low
    codes = encode(pixels)
    drawn = (decode(codes, round(codes.shape[1] ** 0.5)) - low) / (high - low) * 255
    return Kept(shapes, codes.numpy(), drawn.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy())


if __name__ == "__main__":
    PROJECTS[sys.argv[1]](Path(sys.argv[2])).save(sys.argv[1])
