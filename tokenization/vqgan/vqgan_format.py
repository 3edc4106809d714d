"""The definition of a VQ-GAN format: recognising its files, and making a model from its tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tokenization.vqgan.lookup import Lookup
from tokenization.vqgan.network import TokenizerNetwork

SYMMETRIC, UNIT = (-1.0, 1.0), (0.0, 1.0)
"""The usual pixel ranges: values of black and of white in the encoder's input."""


@dataclass(frozen=True)
class VqganFiles:
    """The files of a VQ-GAN.

    Attributes:
        format: its name in `tokenization.vqgan.formats.FORMATS`; empty if the tensors' names decide it.
        weights: the file of tensors.
        settings_files: other files that decide which codes and pixels come out.
        choice: one of `WEIGHTS` of `tokenization.config.vqgan`; empty for what the format's own project takes.
    """

    format: str
    weights: Path
    settings_files: tuple[Path, ...] = ()
    choice: str = ""


@dataclass(frozen=True)
class LoadedModel:
    """The model that a format makes of the tensors. `Vqgan` describes the attributes."""

    model: TokenizerNetwork
    factor: int
    pixel_range: tuple[float, float] = SYMMETRIC
    lookup: Lookup | None = None


@dataclass(frozen=True)
class Vqgan:
    """A loaded VQ-GAN.

    Attributes:
        model: float32, on the CPU. A normalised codebook's rows have length 1: the nearest row is then the nearest in
            angle, for a latent of any length.
        pixel_range: values of black and white.
        factor: pixels per code along one side.
        format: its name in `tokenization.vqgan.formats.FORMATS`.
        lookup: how codes are found; None for the nearest row of the codebook.
        files: where it was read.
    """

    model: TokenizerNetwork
    pixel_range: tuple[float, float]
    factor: int
    format: str
    lookup: Lookup | None
    files: VqganFiles


@dataclass(frozen=True)
class VqganFormat:
    """One format.

    Attributes:
        load: makes the model of the files' places and the tensors by name. It raises an InputError if a tensor is
            missing, unexpected or misshapen.
        class_name: `_class_name` in the folder's `config.json`; empty for formats that are a file of tensors alone.
        weights_files: names that the file of tensors in such a folder may have, the preferred one first; empty if it is
            the only file there, under any name.
        tensor_prefix: the beginning of a tensor's name that no format before this one in `FORMATS` has. It tells files
            of tensors apart; empty takes every file.
        takes_averages: of a file with moving averages of the weights, the project's own code takes these.
        check: checks the settings before any tensor is read.
    """

    load: Callable[[VqganFiles, dict[str, Tensor]], LoadedModel]
    class_name: str = ""
    weights_files: tuple[str, ...] = ()
    tensor_prefix: str = ""
    takes_averages: bool = False
    check: Callable[[VqganFiles], None] = lambda files: None
