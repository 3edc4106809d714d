"""Tensor names behind the names of wrappers: of `torch.compile`, of data-parallel training, of a larger model."""

from collections.abc import Iterable

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""Parts of names that DistributedDataParallel, `torch.compile`, FSDP and Lightning add anywhere in a name."""


def unwrapped(name: str) -> str:
    """A tensor's name without the wrappers'."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def prefixes_of(names: Iterable[str], anchor: str) -> list[str]:
    """The prefixes before each occurrence of the name `anchor`, which every model of a kind has; the shortest first."""
    return sorted((name.removesuffix(anchor) for name in names if name.endswith(anchor)), key=len)
