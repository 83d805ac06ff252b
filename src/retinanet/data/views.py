"""How a picture is laid on its canvas, decided apart from its pixels: every loader shows the same view."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from retinanet.preprocess import fitted_size, resize_image


class View(NamedTuple):
    """A picture is resized, cropped, flipped, and placed at the top left corner of its canvas."""

    resized: tuple[int, int]
    """(height, width) of the whole picture after resizing."""
    corner: tuple[int, int]
    """(top, left) of the shown part in the resized picture."""
    size: tuple[int, int]
    """(height, width) of the shown part."""
    flip: bool
    """Whether the shown part is mirrored, left for right."""
    transform: tuple[float, float, float, float]
    """(sx, sy, ox, oy): canvas = original * (sx, sy) + (ox, oy); sx < 0 when flipped."""


def fitted_view(size: tuple[int, int], canvas: tuple[int, int], resize: int, max_size: int) -> View:
    """The whole of a picture of `size` (h, w), as prediction shows it: `preprocess.fit_to_canvas`."""
    resized = fitted_size(*size, resize, max_size, canvas)
    return View(resized, (0, 0), resized, False, (resized[1] / size[1], resized[0] / size[0], 0.0, 0.0))


def show(image: Tensor, view: View, canvas: Tensor) -> None:
    """Draw uint8 `[3, h, w]` as `view` has it on `canvas`, uint8 `[3, H, W]`, whose rest becomes black."""
    (top, left), (height, width) = view.corner, view.size
    picture = resize_image(image, view.resized)[:, top : top + height, left : left + width]
    canvas[:, :height, :width] = picture.flip(2) if view.flip else picture
    canvas[:, height:] = 0
    canvas[:, :height, width:] = 0
