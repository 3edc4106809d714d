"""What a server must know of a model beside its weights, from a run or from an exported folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoints.manifest import Checkpoint
from pipeline.config.vocabulary import Role
from pipeline.demo.corpora import attribution_of
from pipeline.errors import InputError
from pipeline.export.export import SOURCE_FILE, exported_from, source_of
from pipeline.generation.pictures import HighResolution, positions_after_prompt
from pipeline.runs.language_expert_check import base_config
from pipeline.runs.paths import RunPaths
from pipeline.runs.token_check import checked_fingerprint
from tokenization.config.pictures import Limits
from tokenization.table.token_table import Fingerprint

SERVING_FILE = "serving.json"
"""File of an exported folder with its `ServedModel`."""


@dataclass(frozen=True)
class ServedModel:
    """A model as a server offers it.

    Attributes:
        name: the recipe's name, by which requests name the model.
        source: the checkpoint that it was exported from.
        export: folder of the model and its text tokenizer.
        vqgan: folder of the VQ-GAN; empty for the folder `vqgan` in the export.
        vqgan_dtype: dtype of encoder and decoder, as in the tokens' fingerprint.
        num_codes, size_px: codes and side of a base picture.
        num_high_codes, size_hr_px: of a high-resolution picture; 0 if the model was not trained for it.
        high_role, high_group: role and group size of the high resolution.
        max_positions: positions that the model takes.
        max_prompt_ids: text ids of a picture's prompt.
        max_caption_ids: ids of a generated caption.
        temperature, top_k, guidance_scale: the recipe's sampling, for requests that leave it open.
        limits: limits of uploaded pictures: those of the corpus.
        attribution: a line about whose pictures the model was trained on, or empty.
    """

    name: str
    source: str
    export: str
    vqgan: str
    vqgan_dtype: str
    num_codes: int
    size_px: int
    num_high_codes: int
    size_hr_px: int
    high_role: str
    high_group: int
    max_positions: int
    max_prompt_ids: int
    max_caption_ids: int
    temperature: float
    top_k: int
    guidance_scale: float
    limits: Limits = Limits()
    attribution: str = ""

    @property
    def high(self) -> HighResolution | None:
        """The high resolution, or None."""
        if not self.num_high_codes:
            return None
        return HighResolution(Role[self.high_role], self.high_group, self.num_high_codes)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ServedModel":
        return cls(**{**values, "limits": Limits(**values["limits"])})


def served_run(paths: RunPaths, stage_number: int, checkpoint: Checkpoint, export: Path) -> ServedModel:
    """Describes a checkpoint of a run that is exported to `export`.

    Args:
        paths: paths of the run, with the recipe that the stage was trained with.
        stage_number, checkpoint: stage and checkpoint.
        export: folder of the export, made or not.

    Raises:
        InputError: the run's tokens are missing, or do not fit its recipe.
    """
    fingerprint = checked_fingerprint(paths.recipe, paths)
    return _described(paths, stage_number, checkpoint, fingerprint, str(export), str(paths.vqgan))


def save_description(
    paths: RunPaths, stage_number: int, checkpoint: Checkpoint, fingerprint: Fingerprint, folder: Path
) -> None:
    """Writes the description of an exported folder that has its own VQ-GAN."""
    described = _described(paths, stage_number, checkpoint, fingerprint, "", "").to_json()
    (folder / SERVING_FILE).write_text(json.dumps(described, indent=2, ensure_ascii=False))


def served_export(folder: Path) -> ServedModel:
    """Reads the description of an exported folder.

    Raises:
        InputError: it has none, or a damaged one.
    """
    file = folder / SERVING_FILE
    try:
        values = json.loads(file.read_text())
        described = ServedModel.from_json(values | {"export": str(folder), "vqgan": str(folder / "vqgan")})
    except FileNotFoundError as error:
        if run := next((each for each in list(folder.parents)[:2] if any(each.glob("stage*/recipe.json"))), None):
            raise InputError(f"{str(folder)!r} is a part of the run {str(run)!r}; give --checkpoint {run}") from error
        raise InputError(
            f"model folder {str(folder)!r} has no {SERVING_FILE}, which jobs/export_model.py writes since it serves "
            "models; export the checkpoint again, or name the run"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{str(file)!r} is damaged: {error}; export the checkpoint again") from error
    if source := exported_from(folder):
        return ServedModel.from_json(described.to_json() | {"source": source})
    raise InputError(f"model folder {str(folder)!r} has no {SOURCE_FILE}; export the checkpoint again")


def _described(
    paths: RunPaths,
    stage_number: int,
    checkpoint: Checkpoint,
    fingerprint: Fingerprint,
    export: str,
    vqgan: str,
) -> ServedModel:
    recipe, stage = paths.recipe, paths.recipe.stages[stage_number - 1]
    high = HighResolution.of_stage(stage, fingerprint.num_codes_hr) if fingerprint.num_codes_hr else None
    usual, positions = recipe.evaluation, base_config(paths).max_position_embeddings
    return ServedModel(
        name=recipe.name,
        source=source_of(checkpoint, usual.averaged_weights),
        export=export,
        vqgan=vqgan,
        vqgan_dtype=fingerprint.encoder_dtype,
        num_codes=fingerprint.num_codes,
        size_px=int(fingerprint.transform["size_px"]),
        num_high_codes=high.num_codes if high else 0,
        size_hr_px=int(fingerprint.transform["size_hr_px"]) if high else 0,
        high_role=high.role.name if high else "",
        high_group=high.group_size if high else 1,
        max_positions=positions,
        max_prompt_ids=min(
            fingerprint.max_caption_ids, positions - positions_after_prompt(fingerprint.num_codes, high)
        ),
        max_caption_ids=usual.max_caption_ids,
        temperature=usual.temperature,
        top_k=usual.top_k,
        guidance_scale=usual.guidance_scale,
        limits=Limits(**{name: fingerprint.transform[name] for name in asdict(Limits())}),
        attribution=attribution_of(recipe.corpus),
    )
