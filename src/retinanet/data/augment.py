"""Random views of a training picture, a pure function of (seed, epoch, image).

With no flip and no jitter the result is `preprocess.fit_to_canvas`, just as in prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from retinanet.preprocess import Placed, fitted_size, place_on_canvas, resize_image, scaled_size

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


def augment_image(
    image: Tensor, canvas: tuple[int, int], resize: int, max_size: int, augment: Augment, random: np.random.Generator
) -> Placed:
    """uint8 `[3, h, w]`, scaled, flipped, cropped at random and placed on the canvas.

    A flipped picture's transform has sx < 0: x on the canvas = original * sx + ox still holds.
    """
    # All is drawn in any case, so that one option never changes what another one draws.
    flip = random.random() < augment.flip
    corner = random.random(2)
    least, most = augment.jitter or (resize, resize)
    scale = random.integers(least, most, endpoint=True) / resize

    height, width = image.shape[1:]
    size = scaled_size(*fitted_size(height, width, resize, max_size, canvas), scale)
    top, left = (int(at * (max(side - room, 0) + 1)) for at, side, room in zip(corner, size, canvas, strict=True))
    picture = resize_image(image, size)[:, top : top + canvas[0], left : left + canvas[1]]
    shown = (picture.shape[1], picture.shape[2])
    scale_x, offset_x = size[1] / width, -left
    if flip:
        picture = picture.flip(2)
        scale_x, offset_x = -scale_x, left + shown[1]
    return Placed(place_on_canvas(picture, canvas), shown, (scale_x, size[0] / height, offset_x, -top))


def place_boxes(corners: np.ndarray, placed: Placed) -> tuple[np.ndarray, np.ndarray]:
    """Boxes `[k, 4]` of the original picture, moved onto the canvas and clipped to the picture there.

    Returns float32 `[j, 4]` and the kept rows bool `[k]`: those with at least `MIN_VISIBLE` of their area in sight.
    """
    scale_x, scale_y, offset_x, offset_y = placed.transform
    x = np.sort(corners[:, 0::2] * scale_x + offset_x)  # a flip swaps left and right
    y = corners[:, 1::2] * scale_y + offset_y
    moved = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
    height, width = placed.size
    clipped = moved.clip(0, [width, height, width, height]).astype(np.float32)
    seen = _areas(clipped)
    keep = (clipped[:, 2:] > clipped[:, :2]).all(1) & (seen >= MIN_VISIBLE * _areas(moved))
    return clipped[keep], keep


def _areas(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return areas
