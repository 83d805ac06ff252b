"""Focal loss (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 5) from integer labels."""

from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from retinanet.ops.backend import kernels_available
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
    run = _focal_loss if logits.is_cuda and kernels_available() else reference.focal_loss
    loss: Tensor = run(logits, labels, alpha, gamma)
    return loss


@triton_op("retinanet::focal_loss", mutates_args=())
def _focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    from retinanet.ops.focal_loss import triton

    return triton.focal_loss(logits, labels, alpha, gamma)


@triton_op("retinanet::focal_loss_backward", mutates_args=())
def _focal_loss_backward(gradient: Tensor, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    from retinanet.ops.focal_loss import triton

    return triton.focal_loss_backward(gradient, logits, labels, alpha, gamma)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, float, float], output: Tensor) -> None:
    logits, labels, ctx.alpha, ctx.gamma = inputs
    ctx.save_for_backward(logits, labels)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    return _focal_loss_backward(gradient, *ctx.saved_tensors, ctx.alpha, ctx.gamma), None, None, None


_focal_loss.register_autograd(_differentiate, setup_context=_remember)
