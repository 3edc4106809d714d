"""Reads the trained weights of a checkpoint whole into memory."""

from torch import Tensor

from pipeline.checkpoints.manifest import Checkpoint
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.errors import InputError
from pipeline.export.trained_weights import OBJECTIVE_PREFIX, check_same_shapes
from pipeline.model.mars import MarsForCausalLM, is_trained


def trained_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Returns the trained parameters in a checkpoint, float32, under the model's own names.

    Raises:
        InputError: the checkpoint is damaged.
    """
    reader = SliceReader(checkpoint)
    try:
        return {name.removeprefix(OBJECTIVE_PREFIX): reader.whole(name) for name in checkpoint.manifest.shapes}
    except InputError as error:
        raise InputError(f"checkpoint {str(checkpoint)!r} is damaged: {error}; name another") from error


def load_trained(model: MarsForCausalLM, state: dict[str, Tensor], source: object) -> None:
    """Puts the trained parameters of `source` into `model`.

    Raises:
        InputError: names or shapes differ from this model's.
    """
    own = {name: parameter for name, parameter in model.named_parameters() if is_trained(name)}
    check_same_shapes(
        {name: tuple(parameter.shape) for name, parameter in own.items()},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        source,
    )
    for name, parameter in own.items():
        parameter.data.copy_(state[name])
