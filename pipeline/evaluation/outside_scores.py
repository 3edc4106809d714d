"""FID and CLIP score by torchmetrics, with weights that the user provides: nothing is downloaded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.multimodal.clip_score import CLIPScore
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from pipeline.errors import InputError
from pipeline.evaluation.samples import PICTURES_FILE
from pipeline.evaluation.token_quality import decode_distinct, vqgan_of_tokens
from pipeline.pages.sheets import true_pictures
from pipeline.runs.paths import RunPaths

BATCH = 32
FID_FILES = (
    "a TorchScript module that gives features of uint8 pictures [B, 3, S, S], or torch-fidelity's Inception weights"
)


@dataclass(frozen=True)
class OutsideWeights:
    """A weights file for `fid` and a folder for `clip_score`; an empty path leaves its score out."""

    fid: str = ""
    clip: str = ""


def check_weights(weights: OutsideWeights) -> None:
    """Raises InputError if a path is missing or of the wrong kind."""
    if weights.fid and not Path(weights.fid).is_file():
        raise InputError(f"--fid-weights {weights.fid!r} is no file; name {FID_FILES}")
    if weights.clip and not (Path(weights.clip) / "config.json").is_file():
        raise InputError(
            f"--clip-weights {weights.clip!r} has no config.json; name the folder of a CLIP model as transformers "
            "saves it, with its tokenizer and image processor"
        )


def outside_scores(paths: RunPaths, weights: OutsideWeights) -> dict[str, float]:
    """Returns the FID of all generated pictures and the CLIP score by language, each if its weights are given."""
    vqgan = vqgan_of_tokens(paths)
    pictures = pd.read_parquet(paths.samples / PICTURES_FILE)
    generated = decode_distinct(vqgan, pictures["codes"].to_list())
    scores: dict[str, float] = {}
    if weights.fid:
        truth = true_pictures(paths, pictures["sample_id"].unique().tolist(), generated.shape[1])
        scores |= {"fid": fid(weights.fid, np.stack(list(truth.values())), generated), "fid_pictures": len(generated)}
    if weights.clip:
        for language, rows in pictures.reset_index(drop=True).groupby("language"):
            score = clip_score(weights.clip, generated[rows.index], rows["prompt"].to_list())
            scores[f"clip_score_{language}"] = score
    return scores


def fid(weights: str, real: np.ndarray, generated: np.ndarray) -> float:
    """Returns the Fréchet distance between the features of two sets of pictures.

    Args:
        weights: a TorchScript file whose module gives [B, features] of uint8 pictures [B, 3, S, S]; it is called with
            `return_features=True` if it has that argument, like the common `inception-2015-12-05.pt`. Or
            torch-fidelity's Inception weights, which need that package.
        real, generated: uint8 [n, S, S, 3]. Compare values at equal n only: a small n biases them upwards.

    Raises:
        InputError: the file is neither, or a set has fewer than two pictures.
    """
    if min(len(real), len(generated)) < 2:
        raise InputError(f"FID needs two pictures on each side, not {len(real)} and {len(generated)}")
    try:
        metric = _fid_metric(weights, real.shape[1])
    except (RuntimeError, ValueError, KeyError, TypeError, ModuleNotFoundError) as error:
        raise InputError(f"--fid-weights {weights!r} cannot be used ({error}); name {FID_FILES}") from error
    for pictures, is_real in ((real, True), (generated, False)):
        for batch in _batches(pictures):
            metric.update(batch, real=is_real)
    return metric.compute().item()


def clip_score(weights: str, pictures: np.ndarray, prompts: list[str]) -> float:
    """Returns the mean of 100 times the cosine between the embeddings of a picture and its prompt, at least 0.

    Args:
        weights: folder of a CLIP model, its tokenizer and its image processor, as transformers saves them.
        pictures: uint8 [n, S, S, 3].
        prompts: one prompt for each picture.

    Raises:
        InputError: the folder cannot be loaded.
    """
    try:
        model, processor = _Clip(weights), _ClipProcessor(weights)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"--clip-weights {weights!r} cannot be used: {error}") from error
    metric = CLIPScore(model_name_or_path=lambda: (model, processor))
    with torch.no_grad():
        for start, batch in zip(range(0, len(prompts), BATCH), _batches(pictures), strict=True):
            metric.update(list(batch), prompts[start : start + BATCH])
    return metric.compute().item()


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
