"""A model's state from the tensors of a file: nothing missing, nothing unexpected, every shape right."""

from collections.abc import Callable

from torch import Tensor, nn

from tokenization.errors import InputError


def fitted_state(
    model: nn.Module, tensors: dict[str, Tensor], location: str, source: Callable[[str], str] = lambda name: name
) -> dict[str, Tensor]:
    """Returns the tensors with the model's names and shapes, in float32.

    Args:
        model: its tensors may be on the meta device.
        tensors: those of the file.
        location: the file, for messages.
        source: maps the model's name of a tensor to the file's.

    Raises:
        InputError: a tensor is missing, unexpected or misshapen.
    """
    state, used = {}, set()
    for name, empty in model.state_dict().items():
        state[name] = fitting_tensor(tensors, source(name), tuple(empty.shape), location)
        used.add(source(name))
    if unexpected := sorted(tensors.keys() - used):
        raise InputError(
            f"VQ-GAN {location!r}: tensor {unexpected[0]!r} is unexpected; the file is of another architecture"
        )
    return state


def fitting_tensor(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], location: str) -> Tensor:
    """The tensor in float32 and in that shape, for which the weights of a 1 x 1 convolution are a matrix.

    Raises:
        InputError: it is missing or misshapen.
    """
    if name not in tensors:
        raise InputError(f"VQ-GAN {location!r}: tensor {name!r} is missing; fetch the whole file again")
    value = tensors[name]
    squeezed = value[:, :, 0, 0] if value.dim() == 4 and len(shape) == 2 and value.shape[2:] == (1, 1) else value
    if squeezed.shape != shape:
        raise InputError(
            f"VQ-GAN {location!r}: tensor {name!r} has shape {tuple(value.shape)}, but the other tensors require "
            f"{shape}; fetch the file again"
        )
    return squeezed.float().contiguous()
