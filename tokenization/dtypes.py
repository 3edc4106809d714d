"""The dtype with which a device multiplies fastest. Importing this module does not import torch."""

from typing import TYPE_CHECKING

from tokenization.config.cpu import fast_cpu_dtype

if TYPE_CHECKING:
    import torch


def fast_dtype(device: "torch.device | str") -> "torch.dtype":
    """bfloat16 on GPUs; on CPUs see `fast_cpu_dtype`."""
    import torch

    if torch.device(device).type == "cpu" and fast_cpu_dtype() == "float32":
        return torch.float32
    return torch.bfloat16


def fast_autocast(device: "torch.device | str") -> "torch.autocast":
    """A context in which matrix products are computed in `fast_dtype`."""
    import torch

    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=fast_dtype(device) is torch.bfloat16)
