"""Which anchor learns which box: classic matching by IoU (Lin et al. 2017, section 4), whole batch, fixed shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from retinanet.boxes import area, intersection, iou
from retinanet.model.record import MatchingRecord

BACKGROUND = -1
IGNORED = -2
CROWD_SHARE = 0.5
"""An unmatched anchor with this share of its area in a crowd box may show one of the crowd: it is ignored."""
_CHUNK = 8
"""Boxes compared at a time: bounds memory to [N, 8, M], where all of K could take gigabytes."""


@torch.no_grad()
def match(
    anchors: Tensor, boxes: Tensor, labels: Tensor, crowd: Tensor, image_sizes: Tensor, matching: MatchingRecord
) -> tuple[Tensor, Tensor]:
    """Each anchor's box and label. Never waits for the device, never loops over images.

    Args:
        anchors: float32 `[M, 4]` on the canvas.
        boxes: float32 `[N, K, 4]` on the canvas.
        labels: int64 `[N, K]`, class index, negative where there is no box.
        crowd: bool `[N, K]`; a crowd box is never matched.
        image_sizes: int64 `[N, 2]`; an image of size 0 is blank, and all of its anchors are ignored.
        matching: the thresholds.

    Returns:
        matched: int64 `[N, M]`, index of the box of highest IoU, ties to the lower; 0 where every IoU is 0.
        target: int64 `[N, M]`, class index of a positive anchor, -1 background, -2 ignored.
    """
    images, slots = labels.shape
    best_iou = anchors.new_zeros(images, len(anchors))
    matched = torch.zeros_like(best_iou, dtype=torch.int64)
    is_best_of_a_box = torch.zeros_like(best_iou, dtype=torch.bool)
    in_crowd = torch.zeros_like(best_iou, dtype=torch.bool)
    matchable = (labels >= 0) & ~crowd
    enough = CROWD_SHARE * area(anchors)

    for start in range(0, slots, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        some = boxes[:, chunk, None]  # [N, k, 1, 4]
        ious = iou(some, anchors).where(matchable[:, chunk, None], 0)  # [N, k, M]
        highest, index = ious.max(dim=1)
        better = highest > best_iou
        best_iou = torch.where(better, highest, best_iou)
        matched = torch.where(better, index + start, matched)
        if matching.low_quality:
            # A chunk has all anchors, so a box's highest IoU is known within it.
            top = ious.amax(dim=2, keepdim=True)
            is_best_of_a_box |= ((ious == top) & (top > 0)).any(dim=1)
        in_crowd |= ((intersection(some, anchors) >= enough) & crowd[:, chunk, None]).any(dim=1)

    positive = (best_iou >= matching.positive_iou) | is_best_of_a_box
    background = (best_iou < matching.negative_iou) & ~in_crowd
    target = torch.where(background, BACKGROUND, IGNORED)
    target = torch.where(positive, labels.gather(1, matched), target)
    blank = (image_sizes == 0).any(dim=1, keepdim=True)
    return matched, target.masked_fill(blank, IGNORED)
