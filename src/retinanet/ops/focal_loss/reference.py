"""What the focal loss means, in plain PyTorch."""

import torch
from torch import Tensor
from torch.nn.functional import softplus


def unreduced(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of every class of every anchor, `[..., C]`, float32 (float64 stays): 0 where the label is -2.

    With z = x for the labelled class and -x for the others, p = sigmoid(z) and a = alpha or 1 - alpha:
    a (1 - p)^gamma (-log p), where 1 - p and p are written as exponentials of softplus, finite for any finite x.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    positive = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
    z = torch.where(positive, logits, -logits)
    weight = torch.where(positive, alpha, 1 - alpha) * (labels[..., None] != -2)
    return weight * torch.exp(-gamma * softplus(z)) * softplus(-z)


def focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """The sum of `unreduced`, a scalar."""
    return unreduced(logits, labels, alpha, gamma).sum()
