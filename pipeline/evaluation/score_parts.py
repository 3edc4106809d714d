"""FID and CLIP score of many pictures, in parts: each part is a Ray task, and its figures are kept in a file.

The same command after a kill computes only the parts that are missing.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray

from pipeline.config.recipe import sha256_of
from pipeline.evaluation.outside_scores import OutsideWeights, clip_score, features_of, fid_of_features
from pipeline.evaluation.samples import PICTURES_FILE
from pipeline.evaluation.token_quality import vqgan_of_tokens
from pipeline.pages.sheets import true_pictures
from pipeline.runs.paths import RunPaths
from pipeline.runtime.terminal import say
from tokenization.files.atomic_writing import write_atomically

PART = 256
"""Pictures of a part."""
PARTS_FOLDER = "score_parts"
"""Folder in `RunPaths.samples`."""
REAL, DRAWN = "real", "drawn"
"""Names of the features in a part's file; the others are of CLIP scores, by language."""


@dataclass(frozen=True)
class DrawnPicture:
    """A picture that was drawn from a prompt.

    Attributes:
        sample_id: of the corpus's own picture.
        prompt, language: what it was drawn from.
        codes: its codes, int [N].
    """

    sample_id: str
    prompt: str
    language: str
    codes: np.ndarray


@dataclass(frozen=True)
class Part:
    """Some pictures, with what decides their figures.

    Attributes:
        paths: paths of the run.
        weights: see `OutsideWeights`.
        pictures: the drawn pictures.
        real_ids: the samples whose own pictures are counted in this part.
        size_px: side of the corpus's own pictures.
        device: where the models run.
    """

    paths: RunPaths
    weights: OutsideWeights
    pictures: list[DrawnPicture]
    real_ids: list[str]
    size_px: int
    device: str

    def key(self) -> str:
        """A hash of all that decides its figures."""
        stated = [(one.sample_id, one.prompt, one.language, np.asarray(one.codes).tolist()) for one in self.pictures]
        files = [_state(Path(place)) for place in (self.weights.fid, self.weights.clip) if place]
        return sha256_of(stated, self.real_ids, self.size_px, str(self.paths.vqgan), files)[:16]

    def figures(self) -> dict[str, np.ndarray]:
        """Features of drawn and of real pictures, float32 [n, features], and sum and number of the CLIP scores by
        language, float64 [2]; each if its weights are given."""
        vqgan = vqgan_of_tokens(self.paths)
        drawn = vqgan.decode_all(np.stack([one.codes for one in self.pictures]).astype(np.int64))
        found: dict[str, np.ndarray] = {}
        if self.weights.fid:
            found[DRAWN] = features_of(self.weights.fid, drawn, self.device)
            truth = true_pictures(self.paths, self.real_ids, self.size_px) if self.real_ids else {}
            real = np.stack([*truth.values()]) if truth else None
            empty = np.zeros((0, found[DRAWN].shape[1]), np.float32)
            found[REAL] = empty if real is None else features_of(self.weights.fid, real, self.device)
        for language in sorted({one.language for one in self.pictures}) if self.weights.clip else ():
            places = [place for place, one in enumerate(self.pictures) if one.language == language]
            prompts = [self.pictures[place].prompt for place in places]
            found[language] = np.asarray(clip_score(self.weights.clip, drawn[places], prompts, self.device))
        return found


def generated_pictures(paths: RunPaths) -> list[DrawnPicture]:
    """The pictures of the run's scored samples, those of a shard together."""
    table = pd.read_parquet(paths.samples / PICTURES_FILE).sort_values(["sample_id", "language"], kind="stable")
    columns = (table[name] for name in ("sample_id", "prompt", "language", "codes"))
    return [DrawnPicture(*row) for row in zip(*columns, strict=True)]


def outside_scores(
    paths: RunPaths,
    pictures: Sequence[DrawnPicture],
    weights: OutsideWeights,
    size_px: int,
    task: Callable[[Callable[..., Any]], Any],
    device: str = "cpu",
) -> dict[str, float]:
    """Returns the FID of the pictures and the CLIP score by language, each if its weights are given.

    Args:
        paths: paths of the run, in whose samples the parts are kept.
        pictures: the drawn pictures; each sample's own picture counts once.
        weights: the weights.
        size_px: side of the corpus's own pictures.
        task: makes a Ray task of a function, with the devices that it needs.
        device: where the models run in it.
    """
    if not weights.any:
        say("evaluate: without --fid-weights there is no FID, without --clip-weights no CLIP score")
        return {}
    folder, seen, waiting = paths.samples / PARTS_FOLDER, set[str](), dict[Any, Path]()
    figures_of, files = task(_figures), list[Path]()
    for number, start in enumerate(range(0, len(pictures), PART)):
        own = list(pictures[start : start + PART])
        real_ids = [one for one in dict.fromkeys(each.sample_id for each in own) if one not in seen]
        seen.update(real_ids)
        part = Part(paths, weights, own, real_ids, size_px, device)
        files.append(folder / f"{number:05d}-{part.key()}.npz")
        if not files[-1].exists():
            waiting[figures_of.remote(part)] = files[-1]
    say(
        f"evaluate: scores of {len(pictures)} pictures in {len(files)} parts, {len(files) - len(waiting)} there already"
    )
    while waiting:
        (ended,), _ = ray.wait(list(waiting), num_returns=1)
        _keep(waiting.pop(ended), ray.get(ended))
    return _sums([np.load(file) for file in files])


def _figures(part: Part) -> dict[str, np.ndarray]:
    return part.figures()


def _keep(file: Path, figures: dict[str, np.ndarray]) -> None:
    content, arrays = io.BytesIO(), dict[str, Any](figures)
    np.savez(content, **arrays)
    write_atomically(file, lambda partial: partial.write_bytes(content.getbuffer()))


def _sums(parts: Sequence[Any]) -> dict[str, float]:
    scores: dict[str, float] = {}
    if DRAWN in parts[0]:
        real, drawn = (np.concatenate([part[name] for part in parts]) for name in (REAL, DRAWN))
        scores |= {"fid": fid_of_features(real, drawn), "fid_pictures": len(drawn)}
    languages = sorted({name for part in parts for name in part.files} - {REAL, DRAWN})
    for language in languages:
        total, count = np.sum([part[language] for part in parts if language in part.files], axis=0)
        scores[f"clip_score_{language}"] = max(0.0, float(total / count))
    return scores


def _state(place: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a weights file, or of the files in a folder."""
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
