"""The optimizer of a VQ-GAN: AdamW, and Muon for the wide convolutions if the config says so."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tokenization.config.vqgan import VqganConfig

MUON_MIN_CHANNELS = 16
"""A convolution with fewer inputs or outputs is left to AdamW, as are biases and norms."""


class VqganOptimizer:
    """Updates a VQ-GAN's parameters. Muon (Jordan 2024) sees a convolution's weights [outputs, inputs, k, k] as the
    matrix [outputs, inputs k^2].

    Parameters without a gradient are left as they are.
    """

    def __init__(self, model: nn.Module, config: VqganConfig) -> None:
        self._config = config
        wide = [one for one in model.parameters() if config.muon_learning_rate and _is_wide(one)]
        self._wide = [(one, nn.Parameter(one.data.view(len(one), -1))) for one in wide]
        """Each wide weight, and a matrix on the same memory."""
        taken = {id(one) for one in wide}
        rest = [one for one in model.parameters() if id(one) not in taken]
        self._adamw = torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
        matrices = [matrix for _, matrix in self._wide]
        rate = config.muon_learning_rate
        self._muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.0) if matrices else None

    def set_rates(self, factor: float) -> None:
        """Sets the learning rates to the config's, times `factor`."""
        for group in self._adamw.param_groups:
            group["lr"] = self._config.learning_rate * factor
        for group in self._muon.param_groups if self._muon else ():
            group["lr"] = self._config.muon_learning_rate * factor

    def zero_grad(self) -> None:
        """Drops all gradients."""
        self._adamw.zero_grad(set_to_none=True)
        for weight, matrix in self._wide:
            weight.grad = matrix.grad = None

    def step(self) -> None:
        """Updates the parameters that have a gradient."""
        self._adamw.step()
        for weight, matrix in self._wide:
            matrix.grad = None if weight.grad is None else weight.grad.reshape(matrix.shape)
        if self._muon:
            self._muon.step()

    def forget(self, parameters: Iterable[nn.Parameter]) -> None:
        """Drops what AdamW has gathered about these, because their values have been changed."""
        for parameter in parameters:
            self._adamw.state.pop(parameter, None)

    def state_dict(self) -> dict[str, Any]:
        """The state that `load_state_dict` restores."""
        return {"adamw": self._adamw.state_dict()} | ({"muon": self._muon.state_dict()} if self._muon else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state of the same model and config; AdamW's alone is that of an earlier version."""
        self._adamw.load_state_dict(state.get("adamw", state))
        if self._muon:
            self._muon.load_state_dict(state["muon"])


def _is_wide(parameter: nn.Parameter) -> bool:
    return parameter.dim() == 4 and min(parameter.shape[:2]) >= MUON_MIN_CHANNELS
