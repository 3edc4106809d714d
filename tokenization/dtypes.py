"""Which type of number a device multiplies fastest."""

import torch


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 on GPUs and on CPUs that have it (AVX512_BF16, AMX); float32 on others, where bfloat16 takes 8 to 500
    times as long (measured: an EPYC with AVX2, torch 2.13)."""
    if (
        torch.device(device).type != "cpu"
        or torch.cpu._is_avx512_bf16_supported()
        or torch.cpu._is_amx_tile_supported()
    ):
        return torch.bfloat16
    return torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """As recipes write it: `float32`."""
    return str(dtype).removeprefix("torch.")


def fast_autocast(device: torch.device | str) -> torch.autocast:
    """A context in which matrix products are computed in `fast_dtype`."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=fast_dtype(device) is torch.bfloat16)
