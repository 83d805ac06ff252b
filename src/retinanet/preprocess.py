"""From a picture to the network's input and back; training and prediction share it.

A picture is resized by the usual rule (shorter side `resize`, longer at most `max_size`) and placed at the top left
corner of a canvas. The way back is (sx, sy, ox, oy): canvas = original * (sx, sy) + (ox, oy).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

CANVAS_MULTIPLE = 32
"""The stride of C5: on canvases of such sides a backbone's grids divide evenly."""


class Placed(NamedTuple):
    """One picture on its canvas."""

    image: Tensor
    """uint8 `[3, H, W]`, zero outside the picture."""
    size: tuple[int, int]
    """(height, width) of the picture."""
    transform: tuple[float, float, float, float]
    """(sx, sy, ox, oy)."""


def normalise(images: Tensor, image_sizes: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The network's first step: uint8 `[N, 3, H, W]` to float `(images / 255 - mean) / std`, zero outside the picture.

    `image_sizes` `[N, 2]` is (height, width); `mean` and `std` `[3]` are in units of 0…1, their dtype is the result's.
    """
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    inside_rows = rows < image_sizes[:, :1]
    inside_columns = columns < image_sizes[:, 1:]
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    scaled = (images.to(mean.dtype) / 255 - mean[:, None, None]) / std[:, None, None]
    return scaled * inside


def resized_size(height: int, width: int, resize: int, max_size: int) -> tuple[int, int]:
    """(height, width) with the shorter side `resize` and the longer at most `max_size`, rounded, at least 1 pixel."""
    return scaled_size(height, width, min(resize / min(height, width), max_size / max(height, width)))


def fitted_size(height: int, width: int, resize: int, max_size: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """`resized_size`, made smaller if that would not fit the canvas (a forced canvas, or a wrongly declared size)."""
    size = resized_size(height, width, resize, max_size)
    if size[0] <= canvas[0] and size[1] <= canvas[1]:
        return size
    return scaled_size(height, width, min(canvas[0] / height, canvas[1] / width))


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """(height, width) times `scale`, rounded, at least 1 pixel."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def choose_canvases(sizes: np.ndarray, limit: int = 3) -> list[tuple[int, int]]:
    """At most `limit` canvases (H, W), sides multiples of 32, of which one holds each of the resized sizes `[I, 2]`.

    Starting with a canvas for each distinct size, the pair whose merger adds least padded area over all pictures is
    merged until `limit` remain.
    """
    rounded = -(-sizes // CANVAS_MULTIPLE) * CANVAS_MULTIPLE
    canvases, counts = np.unique(rounded, axis=0, return_counts=True)  # [M, 2], [M]
    while len(canvases) > limit:
        merged = np.maximum(canvases[:, None], canvases[None])  # [M, M, 2]
        area = canvases.prod(-1) * counts
        added = merged.prod(-1) * (counts[:, None] + counts) - area[:, None] - area
        added[np.tril_indices(len(canvases))] = np.iinfo(added.dtype).max
        first, second = np.unravel_index(added.argmin(), added.shape)
        canvases[first] = merged[first, second]
        counts[first] += counts[second]
        canvases, counts = np.delete(canvases, second, 0), np.delete(counts, second)
    return sorted({(int(height), int(width)) for height, width in canvases})


def assign_canvas(sizes: np.ndarray, canvases: Sequence[tuple[int, int]]) -> np.ndarray:
    """Index `[I]` of the smallest canvas that holds each of the resized sizes `[I, 2]` (h, w).

    A picture that fits none goes where it must shrink least (see `fitted_size`).
    """
    sides = np.asarray(canvases)  # [M, 2]
    scale = np.minimum((sides / sizes[:, None]).min(-1), 1)  # [I, M]
    # Lexicographic: least shrinking first, then smallest area.
    rank = np.lexsort((np.broadcast_to(sides.prod(-1), scale.shape), -scale), axis=-1)
    return np.ascontiguousarray(rank[:, 0])


def group_by_canvas(
    sizes: np.ndarray, resize: int, max_size: int, limit: int = 3
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """At most `limit` canvases for pictures of original sizes `[I, 2]` (h, w), and the index `[I]` of each one's."""
    resized = np.array([resized_size(height, width, resize, max_size) for height, width in sizes.tolist()])
    canvases = choose_canvases(resized, limit)
    return assign_canvas(resized, canvases), canvases


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 `[3, h, w]` to uint8 `[3, *size]`, bilinear, antialiased when shrinking, channels-last in memory."""
    if tuple(image.shape[1:]) == size:
        return image
    # PyTorch takes its fast path for interleaved pixels only if the batch's stride is that of a whole picture too.
    batch = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
    return functional.interpolate(batch, size=size, mode="bilinear", antialias=True)[0]


def place_on_canvas(image: Tensor, canvas: tuple[int, int]) -> Tensor:
    """uint8 `[3, h, w]` at the top left corner of a black canvas: `[3, H, W]`, channels-last in memory."""
    placed = image.new_zeros((*canvas, 3)).permute(2, 0, 1)
    placed[:, : image.shape[1], : image.shape[2]] = image
    return placed


def fit_to_canvas(image: Tensor, resize: int, max_size: int, canvas: tuple[int, int]) -> Placed:
    """Resize uint8 `[3, h, w]` by the usual rule and place it: the whole of a prediction's preparation."""
    height, width = image.shape[1:]
    size = fitted_size(height, width, resize, max_size, canvas)
    placed = place_on_canvas(resize_image(image, size), canvas)
    return Placed(placed, size, (size[1] / width, size[0] / height, 0.0, 0.0))


def restore_boxes(boxes: Tensor, transforms: Tensor) -> Tensor:
    """Boxes `[N, D, 4]` on the canvas to original pixels; `transforms` `[N, 4]` is (sx, sy, ox, oy)."""
    scale, offset = transforms[:, None, :2].repeat(1, 1, 2), transforms[:, None, 2:].repeat(1, 1, 2)
    return (boxes - offset) / scale
