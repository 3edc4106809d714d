"""Cross-entropy from hidden states, without holding the logits of all positions at once.

Shape letters: N positions with a label, D hidden size, V text rows, R visual rows that the state allows.
"""

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx

from pipeline.config.model_sizes import LOSS_CHUNK_BYTES


class _LinearCrossEntropy(torch.autograd.Function):
    """Losses [N] of `hidden @ [text_weight; visual_weight]^T`, with the gradients computed in the forward pass.

    So the weights are needed only once. The idea is from Liger's fused linear cross-entropy (Hsu 2024, arXiv
    2410.10989). A function of our own is needed because the head is two matrices, of which the text one is frozen and
    gets no gradient, and because each label has a weight.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden_ND: Tensor,
        text_weight_VD: Tensor | None,
        visual_weight_RD: Tensor,
        labels_N: Tensor,
        weights_N: Tensor,
        z_loss: float,
    ) -> tuple[Tensor, Tensor]:
        num_text = 0 if text_weight_VD is None else len(text_weight_VD)
        losses_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        penalty = losses_N.new_zeros(())
        hidden_grad = torch.empty_like(hidden_ND)
        weight_grad = torch.zeros_like(visual_weight_RD, dtype=torch.float32)
        chunk_bytes = LOSS_CHUNK_BYTES.get(hidden_ND.device.type, LOSS_CHUNK_BYTES["cpu"])
        rows = max(1, chunk_bytes // (4 * (num_text + len(visual_weight_RD))))
        for start in range(0, len(hidden_ND), rows):
            part = slice(start, start + rows)
            hidden, labels = hidden_ND[part], labels_N[part, None]
            logits = hidden @ visual_weight_RD.T
            if text_weight_VD is not None:
                logits = torch.cat([hidden @ text_weight_VD.T, logits], dim=1)
            log_probs = torch.log_softmax(logits, dim=1, dtype=torch.float32)
            losses_N[part] = -log_probs.gather(1, labels)[:, 0]
            log_sum = logits[:, :1].float() - log_probs[:, :1] if z_loss else None
            logit_grad = log_probs.exp_()
            if log_sum is not None:
                penalty += z_loss * (weights_N[part] * log_sum[:, 0].square()).sum()
                logit_grad *= 1 + 2 * z_loss * log_sum
            logit_grad.scatter_add_(1, labels, log_probs.new_full(labels.shape, -1.0))
            logit_grad = logit_grad.mul_(weights_N[part, None]).to(hidden.dtype)
            hidden_grad[part] = logit_grad[:, num_text:] @ visual_weight_RD
            if text_weight_VD is not None:
                hidden_grad[part] += logit_grad[:, :num_text] @ text_weight_VD
            weight_grad += (logit_grad[:, num_text:].T @ hidden).float()
        ctx.save_for_backward(hidden_grad, weight_grad.to(visual_weight_RD.dtype))
        ctx.mark_non_differentiable(losses_N)
        return (losses_N * weights_N).sum() + penalty, losses_N

    @staticmethod
    def backward(ctx: BackwardCFunction, total_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        hidden_grad, weight_grad = saved
        return hidden_grad * total_grad, None, weight_grad * total_grad, None, None, None


def linear_cross_entropy(
    hidden_ND: Tensor,
    text_weight_VD: Tensor | None,
    visual_weight_RD: Tensor,
    labels_N: Tensor,
    weights_N: Tensor,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross-entropies, and the single ones, float32.

    Args:
        hidden_ND: normed hidden states at the labelled positions.
        text_weight_VD: the frozen text head, or None where the state allows no text.
        visual_weight_RD: the visual head's rows that the state allows.
        labels_N: int64 index into `[text rows; visual rows]`.
        weights_N: float32 weight of each position in the sum.
        z_loss: weight of the square of the logarithm of the softmax's denominator, which the sum has in addition for
            each position (PaLM, arXiv 2204.02311, section 5). The single losses are without it.
    """
    losses: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(
        hidden_ND, text_weight_VD, visual_weight_RD, labels_N, weights_N, z_loss
    )
    return losses
