"""FID and CLIP score by torchmetrics, with weights that the user provides: nothing is downloaded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.multimodal.clip_score import CLIPScore
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from pipeline.errors import InputError

BATCH = 32
FID_FILES = (
    "a TorchScript module that gives features of uint8 pictures [B, 3, S, S], or torch-fidelity's Inception weights"
)


@dataclass(frozen=True)
class OutsideWeights:
    """A weights file for `fid` and a folder for `clip_score`; an empty path leaves its score out."""

    fid: str = ""
    clip: str = ""

    @property
    def any(self) -> bool:
        """True if some weights are given."""
        return bool(self.fid or self.clip)


def check_weights(weights: OutsideWeights) -> None:
    """Raises InputError if a path is missing or of the wrong kind."""
    if weights.fid and not Path(weights.fid).is_file():
        raise InputError(f"--fid-weights {weights.fid!r} is no file; name {FID_FILES}")
    if weights.clip and not (Path(weights.clip) / "config.json").is_file():
        raise InputError(
            f"--clip-weights {weights.clip!r} has no config.json; name the folder of a CLIP model as transformers "
            "saves it, with its tokenizer and image processor"
        )


def fid(weights: str, real: np.ndarray, generated: np.ndarray) -> float:
    """Returns the Fréchet distance between the features of two sets of pictures, uint8 [n, S, S, 3] each.

    Raises:
        InputError: see `features_of` and `fid_of_features`.
    """
    _check_enough(real, generated)
    return fid_of_features(features_of(weights, real), features_of(weights, generated))


def features_of(weights: str, pictures: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Returns what an FID compares, float32 [n, features].

    Args:
        weights: a TorchScript file whose module gives [B, features] of uint8 pictures [B, 3, S, S]; it is called with
            `return_features=True` if it has that argument, like the common `inception-2015-12-05.pt`. Or
            torch-fidelity's Inception weights, which need that package.
        pictures: uint8 [n, S, S, 3].
        device: where it runs.

    Raises:
        InputError: the file is neither.
    """
    try:
        module = _fid_metric(weights, pictures.shape[1]).inception.to(device)
    except (RuntimeError, ValueError, KeyError, TypeError, ModuleNotFoundError) as error:
        raise InputError(f"--fid-weights {weights!r} cannot be used ({error}); name {FID_FILES}") from error
    with torch.no_grad():
        parts = [module(batch.to(device)).flatten(1).float().cpu() for batch in _batches(pictures)]
    features: np.ndarray = torch.cat(parts).numpy()
    return features


def fid_of_features(real: np.ndarray, generated: np.ndarray) -> float:
    """Returns the Fréchet distance of two sets of features, [n, features]. Compare values at equal n only: a small n
    biases them upwards.

    Raises:
        InputError: a set has fewer than two pictures.
    """
    _check_enough(real, generated)
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    for features, is_real in ((real, True), (generated, False)):
        metric.update(torch.from_numpy(features), real=is_real)
    return metric.compute().item()


def _check_enough(real: np.ndarray, generated: np.ndarray) -> None:
    if min(len(real), len(generated)) < 2:
        raise InputError(f"FID needs two pictures on each side, not {len(real)} and {len(generated)}")


def clip_score(weights: str, pictures: np.ndarray, prompts: list[str], device: str = "cpu") -> tuple[float, int]:
    """Returns the sum of 100 times the cosine between the embeddings of a picture and its prompt, and their number. The
    score is the mean, or 0 if that is negative.

    Args:
        weights: folder of a CLIP model, its tokenizer and its image processor, as transformers saves them.
        pictures: uint8 [n, S, S, 3].
        prompts: one prompt for each picture.
        device: where the model runs.

    Raises:
        InputError: the folder cannot be loaded.
    """
    try:
        model, processor = _Clip(weights).to(device), _ClipProcessor(weights)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"--clip-weights {weights!r} cannot be used: {error}") from error
    metric = CLIPScore(model_name_or_path=lambda: (model, processor)).to(device)
    with torch.no_grad():
        for start, batch in zip(range(0, len(prompts), BATCH), _batches(pictures), strict=True):
            metric.update(list(batch.to(device)), prompts[start : start + BATCH])
    return float(metric.score), int(metric.n_samples)


class _Features(nn.Module):
    """Adapts a TorchScript module to the interface that torchmetrics calls."""

    def __init__(self, scripted: Any) -> None:
        super().__init__()
        self._scripted = scripted.eval()
        names = [argument.name for argument in scripted.forward.schema.arguments]
        self._options = {"return_features": True} if "return_features" in names else {}

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Maps uint8 [B, 3, S, S] to [B, features]."""
        features: Tensor = self._scripted(pictures, **self._options).flatten(1)
        return features


class _Given(nn.Module):
    """Stands for the module where torchmetrics gets features that are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class _Clip(nn.Module):
    """Adapts a CLIP model, whose feature functions return outputs in transformers 5, to torchmetrics' tensors."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        self.config = self._model.config

    def get_image_features(self, *inputs: Tensor) -> Tensor:
        """Maps [B, 3, S, S] to [B, features]."""
        return _pooled(self._model.get_image_features(*inputs))

    def get_text_features(self, *inputs: Tensor) -> Tensor:
        """Maps ids and mask, [B, T] each, to [B, features]."""
        return _pooled(self._model.get_text_features(*inputs))


class _ClipProcessor:
    """Combines the tokenizer and the image processor of a CLIP model."""

    def __init__(self, folder: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._images = AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    def __call__(self, text: Any = None, images: Any = None, return_tensors: str = "pt", padding: bool = True) -> Any:
        if text is not None:
            return self._tokenizer(text, return_tensors=return_tensors, padding=padding, truncation=True)
        return self._images(images=images, return_tensors=return_tensors)


def _fid_metric(weights: str, size_px: int) -> FrechetInceptionDistance:
    try:
        scripted = torch.jit.load(weights, map_location="cpu")
    except RuntimeError:  # not a TorchScript file
        return FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=weights)
    # Try the features of a batch of the real size: the module resizes pictures itself.
    return FrechetInceptionDistance(feature=_Features(scripted), input_img_size=(3, size_px, size_px))


def _pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


def _batches(pictures: Iterable[np.ndarray] | np.ndarray) -> Iterator[Tensor]:
    stacked = torch.from_numpy(np.asarray(pictures)).permute(0, 3, 1, 2)
    yield from stacked.split(BATCH)
