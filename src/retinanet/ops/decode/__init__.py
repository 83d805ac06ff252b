"""Decode: from the heads' outputs to the highest-scoring boxes of each level, in fixed shapes."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.library import triton_op

from retinanet.errors import UsageError
from retinanet.ops.backend import kernels_available
from retinanet.ops.decode import reference

MIN_LOGIT = -87.0
"""No lower logit passes: below it the sigmoid leaves float32's normal range, and a score of 0 means padding."""


def decode(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    image_sizes: Tensor,
    cell_anchors: Tensor,
    strides: Sequence[tuple[float, float]],
    *,
    centre_offset: float,
    score_threshold: float = 0.05,
    top_n: int = 1000,
) -> tuple[Tensor, Tensor, Tensor]:
    """The `top_n` best (anchor, class) pairs of each level and image whose score exceeds the threshold, as boxes.

    Pairs are ranked by logit, ties by position in (y, x, anchor, class) order; a logit that is not finite never
    passes. A pair whose deltas are not finite keeps its place but becomes padding.

    Args:
        logits: L class logits `[N, A*C, H, W]`, floating point, contiguous or channels-last.
        deltas: L box deltas `[N, A*4, H, W]` (dx, dy, dw, dh), coded as `boxes.encode` does.
        image_sizes: int64 `[N, 2]`, (height, width) of each picture; boxes are clipped to it.
        cell_anchors: float32 `[L, A, 4]`, anchors around the origin, pixels.
        strides: L pairs (vertical, horizontal), pixels.
        centre_offset: where in a cell its anchors' centre lies, 0…1 of the stride.
        score_threshold: 0 ≤ threshold < 1; only higher scores pass.
        top_n: how many a level and image may yield.

    Returns:
        scores float32 `[N, K]`, boxes float32 `[N, K, 4]` in pixels of the canvas, labels int64 `[N, K]`.
        K is the sum of min(top_n, A*C*H*W) over the levels, which follow each other; within one, logits descend.
        Padding has score 0, box 0 and label -1.

    Raises:
        UsageError: `score_threshold` or `top_n` is out of its range.
    """
    if not 0 <= score_threshold < 1:
        raise UsageError(f"The score threshold must be at least 0 and below 1, not {score_threshold}; 0.05 is usual.")
    if top_n < 1:
        raise UsageError(f"The number of candidates a level must be at least 1, not {top_n}; 1000 is usual.")
    assert len(logits) == len(deltas) == len(strides) == cell_anchors.shape[0]
    per_cell = cell_anchors.shape[1]
    for logit, delta in zip(logits, deltas, strict=True):
        assert logit.shape[1] % per_cell == 0
        assert delta.shape[1] == per_cell * 4
        assert logit.shape[0] == delta.shape[0] == image_sizes.shape[0]
        assert logit.shape[2:] == delta.shape[2:]
    flat_strides = [float(pixels) for stride in strides for pixels in stride]
    scores, boxes, labels = _decode(
        list(logits),
        list(deltas),
        image_sizes,
        cell_anchors,
        flat_strides,
        centre_offset,
        logit_threshold(score_threshold),
        top_n,
    )
    return scores, boxes, labels


def logit_threshold(score_threshold: float) -> float:
    """The logit above which a score exceeds the threshold, 0 ≤ threshold < 1."""
    odds = score_threshold / (1 - score_threshold)
    return max(math.log(odds), MIN_LOGIT) if odds > 0 else MIN_LOGIT


@triton_op("retinanet::decode", mutates_args=())
def _decode(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    image_sizes: Tensor,
    cell_anchors: Tensor,
    strides: Sequence[float],
    centre_offset: float,
    logit_threshold: float,
    top_n: int,
) -> tuple[Tensor, Tensor, Tensor]:
    run = reference.decode
    if logits[0].is_cuda and kernels_available():
        from retinanet.ops.decode import triton

        run = triton.decode
    return run(logits, deltas, image_sizes, cell_anchors, strides, centre_offset, logit_threshold, top_n)
