"""The head's loss and its gradients, computed in chunks, are those of its definition, with a z-loss and without."""

import pytest
import torch
from torch import Tensor

from pipeline.config.model_sizes import LOSS_CHUNK_BYTES
from pipeline.model.loss import linear_cross_entropy

POSITIONS, HIDDEN, TEXT, VISUAL = 23, 8, 11, 7


@pytest.fixture(params=[True, False], ids=["text and codes", "codes alone"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor | None, Tensor]:
    """Hidden states, the text head or none, and the visual head. A chunk holds five positions."""
    torch.manual_seed(0)
    text = torch.randn(TEXT, HIDDEN) if request.param else None
    rows = VISUAL + (TEXT if request.param else 0)
    monkeypatch.setitem(LOSS_CHUNK_BYTES, "cpu", 5 * 4 * rows)
    hidden, visual = 3 * torch.randn(POSITIONS, HIDDEN), torch.randn(VISUAL, HIDDEN)
    return hidden.requires_grad_(), text, visual.requires_grad_()


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_loss_and_gradients_are_those_of_the_definition(
    parts: tuple[Tensor, Tensor | None, Tensor], z_loss: float
) -> None:
    hidden, text, visual = parts
    weight = visual if text is None else torch.cat([text, visual])
    labels, weights = torch.randint(len(weight), (POSITIONS,)), torch.rand(POSITIONS)
    logits = hidden @ weight.T
    single = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    defined = (weights * (single + z_loss * logits.logsumexp(1).square())).sum()
    expected = torch.autograd.grad(2 * defined, (hidden, visual))

    loss, losses = linear_cross_entropy(hidden, text, visual, labels, weights, z_loss)
    torch.testing.assert_close(loss, defined)
    torch.testing.assert_close(losses, single, msg="the reported losses are without the z-loss")
    torch.testing.assert_close(torch.autograd.grad(2 * loss, (hidden, visual)), expected)
