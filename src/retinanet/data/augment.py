"""Random views of a training picture, a pure function of (seed, epoch, image), and its boxes there.

With no flip and no jitter the view is `views.fitted_view`, just as in prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retinanet.data.views import View
from retinanet.preprocess import fitted_size, scaled_size

MIN_VISIBLE = 0.1
"""A box of which cropping leaves less than this part of its area is dropped."""


@dataclass(frozen=True)
class Augment:
    """What to vary, and how much."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: tuple[int, int] | None = None
    """The shorter side in pixels, least and greatest: the picture is scaled by the drawn value over `resize`, then
    cropped where it is larger than the canvas."""
    colour_jitter: float = 0.0
    """Strength of `colour.draw_colours`, 0…1: the colours are the batch's last touch, so no view holds them."""


def draw_view(
    size: tuple[int, int],
    canvas: tuple[int, int],
    resize: int,
    max_size: int,
    augment: Augment,
    random: np.random.Generator,
) -> View:
    """A view of a picture of `size` (h, w): scaled, flipped and cropped at random."""
    # All is drawn in any case, so that one option never changes what another one draws.
    flip = bool(random.random() < augment.flip)
    corner = random.random(2).tolist()
    least, most = augment.jitter or (resize, resize)
    scale = int(random.integers(least, most, endpoint=True)) / resize

    resized = scaled_size(*fitted_size(*size, resize, max_size, canvas), scale)
    top, left = (int(at * (max(side - room, 0) + 1)) for at, side, room in zip(corner, resized, canvas, strict=True))
    shown = (min(resized[0], canvas[0]), min(resized[1], canvas[1]))
    scale_x, offset_x = resized[1] / size[1], -left
    if flip:
        scale_x, offset_x = -scale_x, left + shown[1]
    return View(resized, (top, left), shown, flip, (scale_x, resized[0] / size[0], offset_x, -top))


def place_boxes(corners: np.ndarray, transforms: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float32 `[k, 4]` of original pictures, moved onto their canvases and clipped to the pictures there.

    `transforms` `[k, 4]` or `[4]` and `sizes` (h, w) `[k, 2]` or `[2]` are those of the boxes' views. Returns float32
    `[j, 4]` and the kept rows bool `[k]`: those with at least `MIN_VISIBLE` of their area in sight.
    """
    scale, offset = transforms[..., [0, 1, 0, 1]], transforms[..., [2, 3, 2, 3]]
    moved = corners * scale.astype(np.float32) + offset.astype(np.float32)
    moved[:, 0::2].sort(axis=1)  # a flip swaps left and right
    clipped = moved.clip(0, sizes[..., [1, 0, 1, 0]]).astype(np.float32)
    seen = _areas(clipped)
    keep = (clipped[:, 2:] > clipped[:, :2]).all(1) & (seen >= MIN_VISIBLE * _areas(moved))
    return clipped[keep], keep


def _areas(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return areas
