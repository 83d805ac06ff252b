"""Which anchor learns which box, by the statistics of its own candidates: ATSS, whole batch, fixed shapes.

Zhang et al. 2020, "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection", algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet.boxes import iou
from retinanet.model.matcher import crowded, labelled

NEAREST = 9
"""Cells of a level whose anchors are a box's candidates (the paper's k; with A anchors a cell, A * k candidates)."""
_CHUNK = 32
"""Boxes whose distances are compared at a time: bounds memory to [N, 32, cells of the finest level]."""
_ORDER = 2**32


@torch.no_grad()
def match_adaptively(
    anchors: Tensor, cells: Sequence[int], boxes: Tensor, labels: Tensor, crowd: Tensor, image_sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """As `retinanet.model.matcher.match`, which says what the other arguments and the results are.

    Of each level the anchors of the `NEAREST` cells, by the distance of their centres from the box's, are the box's
    candidates. One is positive if its IoU with the box is at least the mean plus the standard deviation of the
    candidates' IoUs, and its centre lies in the box. An anchor that several boxes claim goes to the one of highest IoU,
    ties to the lower. There is no gap between positive and background. Never waits for the device.

    Args:
        anchors: float32 `[M, 4]`, level by level, the A anchors of a cell together.
        cells: cells per level; their sum times A is M.
        boxes, labels, crowd, image_sizes: `[N, K, …]` targets of N images.
    """
    images, slots = labels.shape
    per_cell = len(anchors) // sum(cells)
    matchable = (labels >= 0) & ~crowd
    # Per anchor the highest (IoU, lower box index first) that claims it, as one integer; 0 where none does.
    claims = torch.zeros(images, len(anchors), dtype=torch.int64, device=anchors.device)
    centres = _centres(anchors).view(-1, per_cell, 2).mean(dim=1)  # [cells, 2]
    for start in range(0, slots, _CHUNK):
        some = boxes[:, start : start + _CHUNK]  # [N, k, 4]
        nearest = _nearest_cells(centres, cells, _centres(some))  # [N, k, c]
        within = torch.arange(per_cell, device=anchors.device)
        candidates = (nearest[..., None] * per_cell + within).flatten(2)  # [N, k, c * A]
        shapes = anchors[candidates]
        ious = iou(some[:, :, None], shapes)
        threshold = ious.mean(dim=2, keepdim=True) + ious.std(dim=2, keepdim=True)
        centre = _centres(shapes)
        inside = ((centre > some[:, :, None, :2]) & (centre < some[:, :, None, 2:])).all(dim=-1)
        positive = (ious >= threshold) & inside & matchable[:, start : start + _CHUNK, None]
        last_first = slots - 1 - torch.arange(start, start + some.shape[1], device=anchors.device)
        claim = ious.contiguous().view(torch.int32).long() * _ORDER + last_first[:, None] + 1
        claim = claim.where(positive, 0)
        claims.scatter_reduce_(1, candidates.flatten(1), claim.flatten(1), "amax")
    claimed = claims > 0
    matched = torch.where(claimed, slots - claims % _ORDER, 0)
    return matched, labelled(matched, claimed, ~crowded(anchors, boxes, crowd), labels, image_sizes)


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _nearest_cells(centres: Tensor, cells: Sequence[int], points: Tensor) -> Tensor:
    """Indices `[N, k, c]` of the cells nearest to `points` `[N, k, 2]`, up to `NEAREST` of each level.

    Equal distances go to the lower index: one integer holds the distance's bits and the index.
    """
    found, first = [], 0
    for count in cells:
        distance = (points[:, :, None] - centres[first : first + count]).square().sum(dim=-1)  # [N, k, count]
        index = torch.arange(count, device=centres.device)
        key = distance.view(torch.int32).long() * _ORDER + index
        nearest = key.topk(min(NEAREST, count), dim=2, largest=False).values % _ORDER
        found.append(nearest + first)
        first += count
    return torch.cat(found, dim=2)
