"""Where anchors come from: a few boxes per cell, repeated over each level's grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet import boxes

CellAnchors = tuple[tuple[tuple[float, float, float, float], ...], ...]


def cell_anchors(
    scale: float = 4.0,
    strides: Sequence[int] = (8, 16, 32, 64, 128),
    octave_scales: int = 3,
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> CellAnchors:
    """Per level the A = `len(ratios) * octave_scales` anchors of a cell, around the origin, in pixels.

    A square anchor's side is `scale * stride * 2^(i / octave_scales)`; a ratio is height / width at the same area
    (Lin et al. 2017, section 4). Order: ratios, and within each the scales, as torchvision has it.
    """
    return tuple(
        tuple(
            _centred(scale * stride * 2 ** (octave / octave_scales), ratio)
            for ratio in ratios
            for octave in range(octave_scales)
        )
        for stride in strides
    )


def _centred(side: float, ratio: float) -> tuple[float, float, float, float]:
    half_width, half_height = 0.5 * side / math.sqrt(ratio), 0.5 * side * math.sqrt(ratio)
    return -half_width, -half_height, half_width, half_height


def grid_anchors(
    cell_anchors: Tensor, grid: tuple[int, int], stride: tuple[float, float], centre_offset: float
) -> Tensor:
    """Anchors `[H*W*A, 4]` of one level in (row, column, anchor) order, from `cell_anchors` `[A, 4]`."""
    rows = torch.arange(grid[0], device=cell_anchors.device, dtype=cell_anchors.dtype)
    columns = torch.arange(grid[1], device=cell_anchors.device, dtype=cell_anchors.dtype)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return boxes.shift_anchors(cell_anchors, y[..., None], x[..., None], stride, centre_offset).reshape(-1, 4)
