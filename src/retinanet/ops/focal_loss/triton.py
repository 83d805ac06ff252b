"""Focal loss on a GPU: one pass over the logits forward and one backward, nothing of their size kept in between."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import math

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
        logits,
        labels,
        sums,
        logits.numel(),
        alpha,
        gamma,
        CLASSES=logits.shape[-1],
        ROW=math.gcd(logits.shape[-1], 8),
        SQUARE=gamma == 2,
        BLOCK=BLOCK,
        num_warps=4,
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
        ROW=math.gcd(logits.shape[-1], 8),
        SQUARE=gamma == 2,
        BLOCK=BLOCK,
        num_warps=4,
    )
    return result


@triton.jit
def _forward(
    logits,
    labels,
    sums,
    entries,
    alpha,
    gamma,
    CLASSES: tl.constexpr,
    ROW: tl.constexpr,
    SQUARE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The loss of a block of entries, summed."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    z, _, weight = _load(logits, labels, first, entries, alpha, CLASSES, ROW, BLOCK)
    _, surprise, modulation, _ = _terms(z, gamma, SQUARE)
    tl.store(sums + tl.program_id(0), tl.sum(tl.sum(weight * modulation * surprise, 1), 0))


@triton.jit
def _backward(
    gradient,
    logits,
    labels,
    result,
    entries,
    alpha,
    gamma,
    CLASSES: tl.constexpr,
    ROW: tl.constexpr,
    SQUARE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The derivative: with z, p and a of the reference, -a (1 - p)^gamma (gamma p (-log p) + 1 - p) dz/dx."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    z, positive, weight = _load(logits, labels, first, entries, alpha, CLASSES, ROW, BLOCK)
    p, surprise, modulation, q = _terms(z, gamma, SQUARE)
    slope = tl.load(gradient) * weight * modulation * (gamma * p * surprise + q)
    entry = _entry(first, ROW, BLOCK)
    tl.store(result + entry, tl.where(positive, -slope, slope), entry < entries)


@triton.jit
def _entry(first, ROW: tl.constexpr, BLOCK: tl.constexpr):
    """Where the entries of a block lie, in rows of `ROW` that share an anchor.

    Not told by `_load`: what is stored where a reader of `logits` says, PyTorch takes for stored in `logits`.
    """
    return first + ((tl.arange(0, BLOCK // ROW) * ROW)[:, None] + tl.arange(0, ROW)[None, :])


@triton.jit
def _load(logits, labels, first, entries, alpha, CLASSES: tl.constexpr, ROW: tl.constexpr, BLOCK: tl.constexpr):
    """A block of entries, from `first` on: z, whether labelled, and weight.

    The weight is 0 past the end and where the label is -2.
    """
    row = tl.arange(0, BLOCK // ROW) * ROW
    column = (first % CLASSES).to(tl.int32) + row  # counted from the first class of the block's first anchor
    label = tl.load(labels + first // CLASSES + column // CLASSES, first + row < entries, -2).to(tl.int32)
    lane = tl.arange(0, ROW)
    entry = _entry(first, ROW, BLOCK)
    logit = tl.load(logits + entry, entry < entries, 0.0).to(tl.float32)
    positive = lane[None, :] == (label - column % CLASSES)[:, None]
    weight = tl.where(positive, alpha, tl.where(label == -2, 0.0, 1 - alpha)[:, None])
    return tl.where(positive, logit, -logit), positive, weight


@triton.jit
def _terms(z, gamma, SQUARE: tl.constexpr):
    """p, -log p, (1 - p)^gamma and 1 - p; from e = exp(-|z|), so that none loses its digits."""
    e = tl.exp(-tl.abs(z))
    larger = 1 / (1 + e)
    smaller = e * larger
    p, q = tl.where(z > 0, larger, smaller), tl.where(z > 0, smaller, larger)
    # log(1 + e) = e * polynomial(e), which is minimax in 0…1 (relative error 3e-8): loses no digits of a small e
    tail = 0.005232687573879957
    tail = tail * e - 0.029505211859941483
    tail = tail * e + 0.07822591066360474
    tail = tail * e - 0.13663242757320404
    tail = tail * e + 0.19106005132198334
    tail = tail * e - 0.2484298199415207
    tail = tail * e + 0.3331909775733948
    tail = tail * e - 0.4999949336051941
    tail = (tail * e + 0.9999999403953552) * e
    surprise = tl.maximum(-z, 0.0) + tail
    modulation = q * q if SQUARE else tl.exp(-gamma * (tl.maximum(z, 0.0) + tail))
    return p, surprise, modulation, q
