"""Reference VQ-GANs of taming-transformers (open-muse's is the same) and LlamaGen, after their papers and public code,
on a dict of tensors under their own names, to check conversions against. They share no code with the package.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTHS = (32, 32, 64, 64, 96)
Weights = dict[str, Tensor]


def level_name(kind: str, half: str, level: int, last: int) -> str:
    """Returns the name of the level with the `level`-th finest pictures."""
    if kind == "llamagen":
        return f"{half}.conv_blocks.{level if half == 'encoder' else last - level}"
    return f"{half}.{'down' if half == 'encoder' else 'up'}.{level}"


def block_names(kind: str) -> tuple[str, str, list[str]]:
    """Returns a level's resnets and attentions, and the blocks in the middle, with attention second."""
    if kind == "llamagen":
        return "res", "attn", ["mid.0", "mid.1", "mid.2"]
    return "block", "attn", ["mid.block_1", "mid.attn_1", "mid.block_2"]


def random_weights(
    kind: str, codebook_size: int, embed_dim: int, latent: int = 24, blocks: int = 2, attention: bool = True
) -> Weights:
    """Returns weights of an f16 model with attention at the coarsest level and in the middle."""
    generator, weights = torch.Generator().manual_seed(5), Weights()
    resnet_name, attention_name, mid = block_names(kind)
    last = len(WIDTHS) - 1

    def conv(name: str, into: int, out: int, size: int) -> None:
        scale = (into * size * size) ** -0.5
        weights[f"{name}.weight"] = scale * torch.randn(out, into, size, size, generator=generator)
        weights[f"{name}.bias"] = 0.2 * torch.randn(out, generator=generator)

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=generator)
        weights[f"{name}.bias"] = 0.2 * torch.randn(width, generator=generator)

    def resnet(name: str, into: int, out: int) -> None:
        norm(f"{name}.norm1", into)
        conv(f"{name}.conv1", into, out, 3)
        norm(f"{name}.norm2", out)
        conv(f"{name}.conv2", out, out, 3)
        if into != out:
            conv(f"{name}.nin_shortcut", into, out, 1)

    def attend(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    def middle(half: str) -> None:
        resnet(f"{half}.{mid[0]}", WIDTHS[-1], WIDTHS[-1])
        if attention:
            attend(f"{half}.{mid[1]}", WIDTHS[-1])
        resnet(f"{half}.{mid[2]}", WIDTHS[-1], WIDTHS[-1])

    def levels(half: str, order: list[int], width: int, count: int, resample: str) -> None:
        for level in order:
            name = level_name(kind, half, level, last)
            for block in range(count):
                resnet(f"{name}.{resnet_name}.{block}", width, WIDTHS[level])
                width = WIDTHS[level]
                if attention and level == last:
                    attend(f"{name}.{attention_name}.{block}", width)
            if level != order[-1]:
                conv(f"{name}.{resample}.conv", width, width, 3)

    conv("encoder.conv_in", 3, WIDTHS[0], 3)
    levels("encoder", list(range(last + 1)), WIDTHS[0], blocks, "downsample")
    middle("encoder")
    norm("encoder.norm_out", WIDTHS[-1])
    conv("encoder.conv_out", WIDTHS[-1], latent, 3)
    conv("decoder.conv_in", latent, WIDTHS[-1], 3)
    middle("decoder")
    levels("decoder", list(range(last, -1, -1)), WIDTHS[-1], blocks + 1, "upsample")
    norm("decoder.norm_out", WIDTHS[0])
    conv("decoder.conv_out", WIDTHS[0], 3, 3)
    conv("quant_conv", latent, embed_dim, 1)
    conv("post_quant_conv", embed_dim, latent, 1)
    weights["quantize.embedding.weight"] = torch.randn(codebook_size, embed_dim, generator=generator)
    return weights


def run_conv(weights: Weights, name: str, hidden: Tensor, **options: int) -> Tensor:
    padding = options.pop("padding", weights[f"{name}.weight"].shape[2] // 2)
    return F.conv2d(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding, **options)


def run_norm(weights: Weights, name: str, hidden: Tensor) -> Tensor:
    return F.group_norm(hidden, 32, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)


def run_resnet(weights: Weights, name: str, hidden: Tensor) -> Tensor:
    inner = run_conv(weights, f"{name}.conv1", F.silu(run_norm(weights, f"{name}.norm1", hidden)))
    inner = run_conv(weights, f"{name}.conv2", F.silu(run_norm(weights, f"{name}.norm2", inner)))
    if f"{name}.nin_shortcut.weight" in weights:
        hidden = run_conv(weights, f"{name}.nin_shortcut", hidden)
    return hidden + inner


def run_attention(weights: Weights, name: str, hidden: Tensor) -> Tensor:
    """Runs single-head attention over all positions of the grid."""
    if f"{name}.q.weight" not in weights:
        return hidden
    normed = run_norm(weights, f"{name}.norm", hidden)
    query, key, value = (run_conv(weights, f"{name}.{part}", normed).flatten(2) for part in "qkv")
    scores = torch.einsum("bcq,bck->bqk", query, key) * hidden.shape[1] ** -0.5
    mixed = torch.einsum("bqk,bck->bcq", scores.softmax(-1), value).view_as(hidden)
    return hidden + run_conv(weights, f"{name}.proj_out", mixed)


def run_levels(weights: Weights, kind: str, half: str, hidden: Tensor) -> Tensor:
    resnet_name, attention_name, _ = block_names(kind)
    last = len(WIDTHS) - 1
    order = list(range(last + 1)) if half == "encoder" else list(range(last, -1, -1))
    for level in order:
        name, block = level_name(kind, half, level, last), 0
        while f"{name}.{resnet_name}.{block}.conv1.weight" in weights:
            hidden = run_resnet(weights, f"{name}.{resnet_name}.{block}", hidden)
            hidden = run_attention(weights, f"{name}.{attention_name}.{block}", hidden)
            block += 1
        if level == order[-1]:
            continue
        if half == "encoder":
            hidden = run_conv(weights, f"{name}.downsample.conv", F.pad(hidden, (0, 1, 0, 1)), stride=2, padding=0)
        else:
            hidden = run_conv(weights, f"{name}.upsample.conv", hidden.repeat_interleave(2, 2).repeat_interleave(2, 3))
    return hidden


def run_middle(weights: Weights, kind: str, half: str, hidden: Tensor) -> Tensor:
    first, attention, second = (f"{half}.{name}" for name in block_names(kind)[2])
    hidden = run_attention(weights, attention, run_resnet(weights, first, hidden))
    return run_resnet(weights, second, hidden)


@torch.no_grad()
def encode(weights: Weights, kind: str, pixels: Tensor) -> Tensor:
    """Maps pixels float32 [B, 3, S, S], in the model's own range, to codes [B, N]."""
    hidden = run_levels(weights, kind, "encoder", run_conv(weights, "encoder.conv_in", pixels))
    hidden = F.silu(run_norm(weights, "encoder.norm_out", run_middle(weights, kind, "encoder", hidden)))
    latents = run_conv(weights, "quant_conv", run_conv(weights, "encoder.conv_out", hidden)).flatten(2).transpose(1, 2)
    codebook = weights["quantize.embedding.weight"]
    if kind == "llamagen":
        latents, codebook = F.normalize(latents, dim=-1), F.normalize(codebook, dim=-1)
    return torch.cdist(latents.double(), codebook.double()).argmin(-1)


@torch.no_grad()
def decode(weights: Weights, kind: str, codes: Tensor) -> Tensor:
    """Maps codes [B, N] of square pictures to pixels [B, 3, S, S] in the model's own range."""
    codebook, grid = weights["quantize.embedding.weight"], round(codes.shape[1] ** 0.5)
    if kind == "llamagen":
        codebook = F.normalize(codebook, dim=-1)
    latents = codebook[codes].transpose(1, 2).unflatten(2, (grid, grid))
    hidden = run_conv(weights, "decoder.conv_in", run_conv(weights, "post_quant_conv", latents))
    hidden = run_levels(weights, kind, "decoder", run_middle(weights, kind, "decoder", hidden))
    return run_conv(weights, "decoder.conv_out", F.silu(run_norm(weights, "decoder.norm_out", hidden)))
