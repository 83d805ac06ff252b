"""Which anchor learns which box: classic matching by IoU (Lin et al. 2017, section 4), whole batch, fixed shapes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.boxes import area, intersection, iou
from retinanet.model.compiling import compiled
from retinanet.model.record import MatchingRecord

BACKGROUND = -1
IGNORED = -2
CROWD_SHARE = 0.5
"""An unmatched anchor with this share of its area in a crowd box may show one of the crowd: it is ignored."""
_CHUNK = 8
"""Boxes compared at a time: bounds memory to [N, 8, M], where all of K could take gigabytes.

On a canvas of 800×1344 (M = 201,600) the peak, measured on a CPU without compiling, was 42 MiB for one image and 82 for
two, with 32 slots and with 256 (200 of them boxes) alike."""


class Comparison(NamedTuple):
    """What is known of each anchor so far, `[N, M]` each."""

    highest: Tensor
    """float32, its highest IoU with a box."""
    matched: Tensor
    """int64, index of that box, the lower one of equals."""
    best_of_a_box: Tensor
    """bool, whether no anchor has a higher IoU with some box."""
    in_crowd: Tensor
    """bool."""


@torch.no_grad()
def match(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    crowd: Tensor,
    image_sizes: Tensor,
    matching: MatchingRecord,
    *,
    compile: bool = False,
) -> tuple[Tensor, Tensor]:
    """Each anchor's box and label. Never waits for the device, never loops over images.

    Args:
        anchors: float32 `[M, 4]` on the canvas.
        boxes: float32 `[N, K, 4]` on the canvas.
        labels: int64 `[N, K]`, class index, negative where there is no box.
        crowd: bool `[N, K]`; a crowd box is never matched.
        image_sizes: int64 `[N, 2]`; an image of size 0 is blank, and all of its anchors are ignored.
        matching: the thresholds.
        compile: whether the comparisons are compiled; what is, sees 8 boxes whatever K is.

    Returns:
        matched: int64 `[N, M]`, index of the box of highest IoU, ties to the lower; 0 where every IoU is 0.
        target: int64 `[N, M]`, class index of a positive anchor, -1 background, -2 ignored.
    """
    images, slots = labels.shape
    matchable = (labels >= 0) & ~crowd
    compare, take = (compiled(_overlaps), compiled(_take_in)) if compile else (_overlaps, _take_in)
    zeros = anchors.new_zeros(images, len(anchors))
    known = Comparison(zeros, zeros.long(), zeros.bool(), zeros.bool())
    for start in range(0, slots, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        ious = compare(boxes[:, chunk], matchable[:, chunk], anchors)
        known = take(known, ious, start, boxes[:, chunk], crowd[:, chunk], anchors)

    positive = known.highest >= matching.positive_iou
    if matching.low_quality:
        positive |= known.best_of_a_box
    background = (known.highest < matching.negative_iou) & ~known.in_crowd
    return known.matched, labelled(known.matched, positive, background, labels, image_sizes)


def labelled(matched: Tensor, positive: Tensor, background: Tensor, labels: Tensor, image_sizes: Tensor) -> Tensor:
    """The targets of `match` for anchors `[N, M]` that are positive, background or, where neither, ignored."""
    target = torch.where(background, BACKGROUND, IGNORED)
    target = torch.where(positive, labels.gather(1, matched), target)
    blank = (image_sizes == 0).any(dim=1, keepdim=True)
    return target.masked_fill(blank, IGNORED)


def crowded(anchors: Tensor, boxes: Tensor, crowd: Tensor) -> Tensor:
    """bool `[N, M]`: which `anchors` `[M, 4]` may show one of a crowd of `boxes` `[N, K, 4]`, `crowd` `[N, K]`."""
    found = torch.zeros(len(boxes), len(anchors), dtype=torch.bool, device=anchors.device)
    for start in range(0, boxes.shape[1], _CHUNK):
        chunk = slice(start, start + _CHUNK)
        found |= _in_crowd(boxes[:, chunk], crowd[:, chunk], anchors)
    return found


def _overlaps(boxes: Tensor, matchable: Tensor, anchors: Tensor) -> Tensor:
    """IoU `[N, k, M]`, 0 where a box is not `matchable`.

    Not part of `_take_in`, which asks what equals the highest: compiled together, the IoU might be computed anew for
    each use, and rounded otherwise.
    """
    return iou(boxes[:, :, None], anchors).where(matchable[:, :, None], 0)


def _take_in(known: Comparison, ious: Tensor, start: int, boxes: Tensor, crowd: Tensor, anchors: Tensor) -> Comparison:
    """What is known with k more boxes, the first of index `start`."""
    highest, index = ious.max(dim=1)
    better = highest > known.highest
    # A chunk has all anchors, so a box's highest IoU is known within it.
    top = ious.amax(dim=2, keepdim=True)
    return Comparison(
        torch.where(better, highest, known.highest),
        torch.where(better, index + start, known.matched),
        known.best_of_a_box | ((ious == top) & (top > 0)).any(dim=1),
        known.in_crowd | _in_crowd(boxes, crowd, anchors),
    )


def _in_crowd(boxes: Tensor, crowd: Tensor, anchors: Tensor) -> Tensor:
    enough = intersection(boxes[:, :, None], anchors) >= CROWD_SHARE * area(anchors)
    return (enough & crowd[:, :, None]).any(dim=1)
