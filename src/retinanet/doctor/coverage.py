"""How well anchors cover the boxes: what matching will have to work with, computed for every box of a set."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from retinanet.boxes import iou, shift_anchors
from retinanet.data.annotations import CocoData, clipped_corners
from retinanet.model.anchors import CellAnchors, cell_anchors
from retinanet.model.record import MatchingRecord
from retinanet.preprocess import group_by_canvas, resized_size

STRIDES = (8, 16, 32, 64, 128)
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
    """bool `[B]`: an anchor is at least as close as the matching threshold asks."""
    rescued: np.ndarray
    """bool `[B]`: not matched, but its best anchor is its own, and learns it as a low-quality match."""

    @property
    def missed(self) -> np.ndarray:
        """bool `[B]`: no anchor learns the box: none overlaps it, or another box has its best one."""
        missed: np.ndarray = ~(self.matched | self.rescued)
        return missed


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


def cover(targets: Targets, anchor_scale: float, matching: MatchingRecord | None = None) -> Coverage:
    """What anchors of `anchor_scale` are to the targets."""
    positive = (matching or MatchingRecord()).positive_iou
    best_iou, best_anchor = best_anchors(targets.boxes, targets.canvases, cell_anchors(anchor_scale, STRIDES))
    matched = best_iou >= positive
    rescued = ~matched & (best_iou > 0) & ~_taken(targets, best_iou, best_anchor, ~matched)
    return Coverage(best_iou.numpy(), matched.numpy(), rescued.numpy())


def best_anchors(boxes: Tensor, canvases: Tensor, cells: CellAnchors) -> tuple[Tensor, Tensor]:
    """IoU `[B]` with, and corners `[B, 4]` of, the anchor that overlaps each of `boxes` `[B, 4]` best.

    Of all anchors of one shape the one whose centre is nearest overlaps most, so that only one cell of each level
    need be looked at. `canvases` `[B, 2]` is (width, height).
    """
    ious, anchors = boxes.new_zeros(len(boxes)), boxes.new_zeros(len(boxes), 4)
    for start in range(0, len(boxes), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        some = boxes[chunk]
        centre = (some[:, :2] + some[:, 2:]) / 2
        candidates = []
        for stride, shapes in zip(STRIDES, cells, strict=True):
            last = (canvases[chunk] / stride).ceil() - 1
            x, y = (centre / stride).floor().clamp(min=0).minimum(last).unbind(1)
            shape = torch.tensor(shapes)
            candidates.append(shift_anchors(shape, y[:, None], x[:, None], (stride, stride), 0.5))
        of_all = torch.cat(candidates, 1)  # [b, 5 * 9, 4]
        ious[chunk], index = iou(some[:, None], of_all).max(1)
        anchors[chunk] = of_all[torch.arange(len(some)), index]
    return ious, anchors


def _taken(targets: Targets, best_iou: Tensor, best_anchor: Tensor, asked: Tensor) -> Tensor:
    """bool `[B]`: of the boxes that are `asked` about, whose best anchor overlaps another box of the image more."""
    taken = torch.zeros(len(best_iou), dtype=torch.bool)
    images, starts, counts = np.unique(targets.image_of, return_index=True, return_counts=True)
    asked_images = np.unique(targets.image_of[asked.numpy()])
    for place in np.flatnonzero((counts > 1) & np.isin(images, asked_images)):
        rows = slice(starts[place], starts[place] + counts[place])
        overlap = iou(best_anchor[rows, None], targets.boxes[None, rows])  # [k, k], anchor of each, with each box
        owner = overlap.argmax(1)
        taken[rows] = owner != torch.arange(len(owner))
    return taken & asked


def side_groups(sides: np.ndarray) -> np.ndarray:
    """Which of `SIDES` each of the sides `[B]` belongs to, int64 `[B]`."""
    groups: np.ndarray = np.searchsorted(SIDES, sides, side="right") - 1
    return groups
