"""Checks that the trained weights of a checkpoint fit a model, its options and its language expert."""

from pathlib import Path

from pipeline.checkpoints.manifest import Checkpoint
from pipeline.errors import InputError

OBJECTIVE_PREFIX = "mars."


def check_same_shapes(own: dict[str, tuple[int, ...]], shapes: dict[str, tuple[int, ...]], source: object) -> None:
    """Raises InputError if names or shapes of the trained parameters of `source` differ from the model's `own` ones."""
    for name, shape in own.items():
        if name not in shapes:
            raise InputError(f"checkpoint {str(source)!r} is of another model: {name} is missing")
        if shapes[name] != shape:
            difference = f"{name} has shape {shapes[name]}, the model's is {shape}"
            raise InputError(f"checkpoint {str(source)!r} is of another model: {difference}")
    if unexpected := sorted(shapes.keys() - own.keys()):
        raise InputError(f"checkpoint {str(source)!r} is of another model: {unexpected[0]} is unexpected")


def trained_shapes_of(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shapes of the trained parameters in a checkpoint, under the model's own names."""
    return {name.removeprefix(OBJECTIVE_PREFIX): shape for name, shape in checkpoint.manifest.shapes.items()}


def check_picture_positions_of(checkpoint: Checkpoint, std: float) -> None:
    """Raises InputError if a checkpoint was trained with another `picture_position_std`."""
    if (trained := checkpoint.manifest.picture_position_std) != std:
        raise InputError(
            f"checkpoint {str(checkpoint)!r} was trained with picture_position_std {trained}, not {std}; undo the "
            "change, or train it again"
        )


def check_language_expert_of(checkpoint: Checkpoint, language_expert_hash: str, language_expert: Path) -> None:
    """Raises InputError if a checkpoint was trained on another language expert than the one with this hash."""
    if checkpoint.manifest.base_sha256 != language_expert_hash:
        raise InputError(
            f"checkpoint {str(checkpoint)!r} was trained on another language expert than {str(language_expert)!r}; "
            "train it again, or put its language expert back"
        )
