"""Weights between stages and out of the pipeline: a frozen base plus the trained visual parameters."""

from pathlib import Path

from torch import Tensor

from pipeline.checkpoints.manifest import Checkpoint
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.errors import InputError
from pipeline.model.mars import MarsForCausalLM, is_trained

OBJECTIVE_PREFIX = "mars."


def trained_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The trained parameters in a checkpoint, float32, under the model's own names.

    Raises:
        InputError: it is damaged.
    """
    reader = SliceReader(checkpoint)
    try:
        return {name.removeprefix(OBJECTIVE_PREFIX): reader.whole(name) for name in checkpoint.manifest.shapes}
    except InputError as error:
        raise InputError(f"checkpoint {str(checkpoint)!r} is damaged: {error}; name another") from error


def load_trained(model: MarsForCausalLM, state: dict[str, Tensor], source: object) -> None:
    """Puts the trained parameters of `source` into `model`.

    Raises:
        InputError: names or shapes are not this model's.
    """
    own = {name: parameter for name, parameter in model.named_parameters() if is_trained(name)}
    check_same_shapes(
        {name: tuple(parameter.shape) for name, parameter in own.items()},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        source,
    )
    for name, parameter in own.items():
        parameter.data.copy_(state[name])


def check_same_shapes(own: dict[str, tuple[int, ...]], shapes: dict[str, tuple[int, ...]], source: object) -> None:
    """Raises InputError where the trained parameters of `source` are not the model's `own` ones."""
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
    """Raises InputError where a checkpoint was trained with another `picture_position_std`."""
    if (trained := checkpoint.manifest.picture_position_std) != std:
        raise InputError(
            f"checkpoint {str(checkpoint)!r} was trained with picture_position_std {trained}, not {std}; undo the "
            "change, or train it again"
        )


def check_base_of(checkpoint: Checkpoint, base_hash: str, base: Path) -> None:
    """Raises InputError where a checkpoint was trained on another language expert than `base`, of this hash."""
    if checkpoint.manifest.base_sha256 != base_hash:
        raise InputError(
            f"checkpoint {str(checkpoint)!r} was trained on another language expert than {str(base)!r}; "
            "train it again, or put its language expert back"
        )
