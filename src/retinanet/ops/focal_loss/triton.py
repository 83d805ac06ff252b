"""Focal loss on a GPU: one pass over the logits forward and one backward, nothing of their size kept in between."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

BLOCK = 4096


def focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """`reference.focal_loss` on a GPU; sums in a fixed order, so the result is the same each time."""
    logits, labels = logits.contiguous(), labels.contiguous()
    programs = triton.cdiv(logits.numel(), BLOCK)
    sums = torch.empty(programs, dtype=torch.float32, device=logits.device)
    wrap_triton(_forward)[(programs,)](
        logits, labels, sums, logits.numel(), alpha, gamma, CLASSES=logits.shape[-1], BLOCK=BLOCK, num_warps=8
    )
    return sums.sum()


def focal_loss_backward(gradient: Tensor, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Gradient of the loss in `logits`, in their dtype and contiguous, times the scalar `gradient`."""
    logits, labels = logits.contiguous(), labels.contiguous()
    result = torch.empty_like(logits)
    programs = triton.cdiv(logits.numel(), BLOCK)
    wrap_triton(_backward)[(programs,)](
        gradient,
        logits,
        labels,
        result,
        logits.numel(),
        alpha,
        gamma,
        CLASSES=logits.shape[-1],
        BLOCK=BLOCK,
        num_warps=8,
    )
    return result


@triton.jit
def _forward(logits, labels, sums, entries, alpha, gamma, CLASSES: tl.constexpr, BLOCK: tl.constexpr):
    """The loss of a block of entries, summed."""
    z, _, weight = _load(logits, labels, entries, alpha, CLASSES, BLOCK)
    tail = _log1p_exp(-tl.abs(z))
    loss = weight * tl.exp(-gamma * (tl.maximum(z, 0.0) + tail)) * (tl.maximum(-z, 0.0) + tail)
    tl.store(sums + tl.program_id(0), tl.sum(loss, 0))


@triton.jit
def _backward(gradient, logits, labels, result, entries, alpha, gamma, CLASSES: tl.constexpr, BLOCK: tl.constexpr):
    """The derivative: with z, p and a of the reference, -a (1 - p)^gamma (gamma p (-log p) + 1 - p) dz/dx."""
    z, sign, weight = _load(logits, labels, entries, alpha, CLASSES, BLOCK)
    tail = _log1p_exp(-tl.abs(z))
    exponential = tl.exp(-tl.abs(z))
    larger = 1 / (1 + exponential)
    smaller = exponential * larger
    p, q = tl.where(z > 0, larger, smaller), tl.where(z > 0, smaller, larger)
    slope = tl.exp(-gamma * (tl.maximum(z, 0.0) + tail)) * (gamma * p * (tl.maximum(-z, 0.0) + tail) + q)
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(result + entry, -tl.load(gradient) * weight * sign * slope, entry < entries)


@triton.jit
def _load(logits, labels, entries, alpha, CLASSES: tl.constexpr, BLOCK: tl.constexpr):
    """z, dz/dx and the weight of this program's block of entries; weight 0 past the end and where the label is -2."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    inside = first + lane < entries
    logit = tl.load(logits + first + lane, inside, 0.0).to(tl.float32)
    column = (first % CLASSES).to(tl.int32) + lane  # counted from the first class of the block's first anchor
    label = tl.load(labels + first // CLASSES + column // CLASSES, inside, -2)
    positive = column % CLASSES == label
    sign = tl.where(positive, 1.0, -1.0)
    weight = tl.where(positive, alpha, 1 - alpha)
    return logit * sign, sign, tl.where(label == -2, 0.0, weight)


@triton.jit
def _log1p_exp(x):
    """log(1 + exp(x)) for x ≤ 0, with a series where 1 + exp(x) would round its digits away."""
    e = tl.exp(x)
    series = e * (1 - e * (0.5 - e * (1 / 3 - e * 0.25)))
    return tl.where(e < 0.015625, series, tl.log(1 + e))
