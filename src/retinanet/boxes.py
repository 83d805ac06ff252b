"""The only place that knows the box convention: areas, IoU, delta coding, clipping, and where anchors sit.

Boxes are `[..., 4]` as x1, y1, x2, y2 in pixels, continuous coordinates: width = x2 - x1, never + 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_SIZE = math.log(1000 / 16)
"""Upper bound of a log-size delta, so that exp stays finite (He et al., Detectron's bbox_xform_clip)."""


def area(boxes: Tensor) -> Tensor:
    """Area in square pixels of boxes `[..., 4]`, as `[...]`."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area that broadcastable boxes `[..., 4]` share, as `[...]`."""
    width = (torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    height = (torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])).clamp(min=0)
    return width * height


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of broadcastable boxes `[..., 4]`, as `[...]`; 0 where the union is empty."""
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    return torch.where(union > 0, shared / union.where(union > 0, 1), 0)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of broadcastable boxes `[..., 4]`, -1…1, as `[...]` (Rezatofighi et al. 2019, algorithm 1)."""
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    hull_size = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull = hull_size[..., 0] * hull_size[..., 1]
    empty = (hull - union) / hull.where(hull > 0, 1)
    return shared / union.where(union > 0, 1) - empty


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Deltas `[..., 4]` (dx, dy, dw, dh) that move `anchors` onto `boxes` (Girshick et al. 2014, appendix C).

    Offsets are in units of the anchor's size, sizes are log ratios. Sides of both must be positive.
    """
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    anchor_centre = anchors[..., :2] + 0.5 * anchor_size
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * size
    return torch.cat([(centre - anchor_centre) / anchor_size, torch.log(size / anchor_size)], dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes `[..., 4]` that `deltas` make of `anchors`: the inverse of `encode`, log sizes clamped from above."""
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    anchor_centre = anchors[..., :2] + 0.5 * anchor_size
    centre = deltas[..., :2] * anchor_size + anchor_centre
    half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SIZE)) * anchor_size
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Boxes `[..., 4]` cut to their pictures; `image_sizes` `[..., 2]` is (height, width), broadcastable."""
    limit = image_sizes.flip(-1).to(boxes.dtype)
    limit = torch.cat([limit, limit], dim=-1)
    return torch.minimum(boxes.clamp(min=0), limit)


def shift_anchors(
    cell_anchors: Tensor, y: Tensor, x: Tensor, stride: tuple[float, float], centre_offset: float
) -> Tensor:
    """Anchors of cells: `cell_anchors` `[..., 4]`, around the origin, moved to row `y` and column `x`, each `[...]`.

    A cell's centre is at ((x + centre_offset) * horizontal stride, (y + centre_offset) * vertical stride).
    """
    centre_x = (x + centre_offset) * stride[1]
    centre_y = (y + centre_offset) * stride[0]
    return cell_anchors + torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)


def from_xywh(boxes: Tensor) -> Tensor:
    """COCO's (x, y, width, height) `[..., 4]` as corners. Used at the JSON boundary alone."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=-1)


def to_xywh(boxes: Tensor) -> Tensor:
    """Corners `[..., 4]` as COCO's (x, y, width, height). Used at the JSON boundary alone."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], dim=-1)
