"""Models with random weights."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from pipeline.model.mars import MarsForCausalLM
from tests.support.small_models import small_config


def random_model(**changes: Any) -> MarsForCausalLM:
    """Returns a model whose random weights are large enough that codes depend on their context."""
    torch.manual_seed(3)
    mars: MarsForCausalLM = AutoModelForCausalLM.from_config(small_config(**changes), dtype=torch.float32).eval()
    for parameter in mars.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return mars
