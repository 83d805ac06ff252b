"""Focal loss (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 5) from integer labels."""

import torch
from torch import Tensor

from retinanet.ops.focal_loss import reference


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sum of the focal loss over anchors and classes, a float32 scalar, differentiable in `logits`.

    Args:
        logits: `[..., C]`, floating point; computed in float32.
        labels: int64 `[...]`: class index 0…C-1, -1 background (no class), -2 ignored (no loss).
        alpha: weight of the labelled class; the others have 1 - alpha.
        gamma: how fast the loss of the well classified vanishes, at least 0.
    """
    assert labels.dtype == torch.int64
    assert logits.shape[:-1] == labels.shape
    return reference.focal_loss(logits, labels, alpha, gamma)
