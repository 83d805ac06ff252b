"""How well anchors cover the boxes: what matching will have to work with, computed for every box of a set."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from retinanet.boxes import iou, shift_anchors
from retinanet.data.annotations import CocoData, clipped_corners
from retinanet.model.anchors import cell_anchors, grid_anchors
from retinanet.model.matcher import match
from retinanet.model.record import MatchingRecord
from retinanet.preprocess import group_by_canvas, resized_size

STRIDES = (8, 16, 32, 64, 128)
CENTRE_OFFSET = 0.5
MATCHING = MatchingRecord()
"""Of a new model."""
MATCHED_IMAGES = 200
SIDES = (0, 16, 32, 64, 128, 256, 512)
"""Lower ends of the groups by size: square roots of the boxes' areas, in pixels after resizing."""
_CHUNK = 1 << 15  # boxes at a time


@dataclass(frozen=True, eq=False)
class Targets:
    """B usable boxes (crowds apart), resized as the network sees them."""

    rows: np.ndarray
    """int64 `[B]`, of the data."""
    image_of: np.ndarray
    """int64 `[B]`, ascending."""
    labels: np.ndarray
    """int64 `[B]`."""
    boxes: Tensor
    """float32 `[B, 4]`."""
    canvases: Tensor
    """float32 `[B, 2]`, (width, height) of the canvas."""

    @property
    def sides(self) -> np.ndarray:
        """Square roots of the areas, `[B]`."""
        sizes = (self.boxes[:, 2:] - self.boxes[:, :2]).double()
        sides: np.ndarray = sizes.prod(1).sqrt().numpy()
        return sides

    def thinned(self, most: int) -> Targets:
        """About `most` of the boxes, evenly spread; all where they are fewer."""
        every = slice(None, None, max(1, len(self.rows) // most))
        return Targets(*(getattr(self, field.name)[every] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class Coverage:
    """What the anchors are to each of the B boxes."""

    best_iou: np.ndarray
    """float32 `[B]`, with the best of all anchors."""
    matched: np.ndarray
    """bool `[B]`: an anchor is as close as the matching threshold asks."""
    learned: np.ndarray
    """float64 `[B]`, 1 where an anchor learns the box, if only as a low-quality match, and 0 where none does; what is
    not known has the mean of what is."""
    missed: np.ndarray
    """bool `[B]`: known to be learned by no anchor: none overlaps it, or other boxes have its best ones."""


def resize_targets(data: CocoData, resize: int, max_size: int) -> Targets:
    """The boxes to learn, at the size of training."""
    all_images = np.repeat(np.arange(len(data)), np.diff(data.offsets))
    rows = np.flatnonzero(data.usable & ~data.crowd)
    image_of = all_images[rows]
    canvas_of_image, canvases = group_by_canvas(data.sizes, resize, max_size)
    resized = np.array([resized_size(height, width, resize, max_size) for height, width in data.sizes.tolist()])
    scale = np.tile((resized / data.sizes)[:, ::-1], 2).astype(np.float32)  # [I, 4]
    corners = clipped_corners(data.boxes[rows], data.sizes[image_of]) * scale[image_of]
    sides = np.array(canvases, np.float32)[canvas_of_image][:, ::-1]  # [I, 2]
    return Targets(
        rows, image_of, data.labels[rows].astype(np.int64), torch.from_numpy(corners), torch.from_numpy(sides[image_of])
    )


def cover(targets: Targets, anchor_scale: float) -> Coverage:
    """What anchors of `anchor_scale` are to the targets.

    Which boxes low-quality matches save is asked of the matcher itself, in `MATCHED_IMAGES` of the images that have
    boxes below the threshold.
    """
    ious = best_ious(targets, anchor_scale)
    matched = ious >= MATCHING.positive_iou
    learned = np.where(matched, 1.0, np.nan)
    doubtful = np.unique(targets.image_of[~matched])
    for image in doubtful[:: max(1, -(-len(doubtful) // MATCHED_IMAGES))]:
        rows = np.flatnonzero(targets.image_of == image)
        learned[rows] = _learned_in_image(targets.boxes[rows], targets.canvases[rows[0]], anchor_scale)
    missed = learned == 0
    known = ~matched & ~np.isnan(learned)
    return Coverage(
        ious, matched, np.where(np.isnan(learned), learned[known].mean() if known.any() else 1, learned), missed
    )


def best_ious(targets: Targets, anchor_scale: float) -> np.ndarray:
    """IoU of each target with the anchor that overlaps it best, float32 `[B]`.

    Of all anchors of one shape one whose centre is nearest overlaps most, so that only one cell of each level need be
    looked at.
    """
    cells = torch.tensor(cell_anchors(anchor_scale, STRIDES))  # [L, A, 4]
    best = torch.zeros(len(targets.boxes))
    for start in range(0, len(best), _CHUNK):
        boxes, canvases = targets.boxes[start : start + _CHUNK], targets.canvases[start : start + _CHUNK]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        for stride, shapes in zip(STRIDES, cells, strict=True):
            last = (canvases / stride).ceil() - 1
            x, y = (centre / stride).floor().clamp(min=0).minimum(last).unbind(1)
            anchors = shift_anchors(shapes, y[:, None], x[:, None], (stride, stride), CENTRE_OFFSET)  # [b, A, 4]
            of_level = iou(boxes[:, None], anchors).amax(1)
            best[start : start + _CHUNK] = best[start : start + _CHUNK].maximum(of_level)
    return best.numpy()


def _learned_in_image(boxes: Tensor, canvas: Tensor, anchor_scale: float) -> np.ndarray:
    """Whether the matcher gives each of an image's boxes `[k, 4]` an anchor, float64 `[k]`."""
    width, height = canvas.tolist()
    cells = torch.tensor(cell_anchors(anchor_scale, STRIDES))
    anchors = torch.cat(
        [
            grid_anchors(
                shapes, (math.ceil(height / stride), math.ceil(width / stride)), (stride, stride), CENTRE_OFFSET
            )
            for stride, shapes in zip(STRIDES, cells, strict=True)
        ]
    )
    labels = torch.zeros(1, len(boxes), dtype=torch.int64)
    size = torch.tensor([[height, width]])
    matched, target = match(anchors, boxes[None], labels, torch.zeros_like(labels, dtype=torch.bool), size, MATCHING)
    learned = np.zeros(len(boxes))
    learned[matched[target >= 0].numpy()] = 1
    return learned


def side_groups(sides: np.ndarray) -> np.ndarray:
    """Which of `SIDES` each of the sides `[B]` belongs to, int64 `[B]`."""
    groups: np.ndarray = np.searchsorted(SIDES, sides, side="right") - 1
    return groups
