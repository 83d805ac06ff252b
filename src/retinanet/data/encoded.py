"""A batch before its pixels: the encoded files, and the numbers by which DALI draws them."""

from __future__ import annotations

from collections.abc import Collection
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retinanet.data.batching import assemble_images, empty_images
from retinanet.data.jpeg import is_whole, read_content, read_header
from retinanet.data.sampler import BLANK, BatchPlan
from retinanet.data.torch_loader import BatchMaker
from retinanet.data.views import View
from retinanet.errors import DataError
from retinanet.types import Batch


class EncodedBatch(NamedTuple):
    """N slots of one canvas."""

    plan: BatchPlan
    files: list[np.ndarray]
    """N JPEGs, each uint8 `[bytes]`; a black pixel for slots that are blank or `drawn`."""
    placement: np.ndarray
    """float32 `[N, 4, 2]`, each (y, x) in pixels: start and end of what is shown of the displayed picture (mirrored
    where the end lies before the start), its size on the canvas, and the canvas."""
    batch: Batch
    """All but the images."""
    drawn: dict[int, Tensor]
    """Slot → uint8 `[3, H, W]`: pictures that DALI can't decode as we do."""
    broken: dict[str, str]
    """Path → what is wrong with the image."""
    colours: Tensor | None
    """Colour matrices, as `Made` has them."""


def encode(maker: BatchMaker, plan: BatchPlan, refused: Collection[int]) -> EncodedBatch:
    """Read what `plan` describes; images that are no ordinary JPEGs, or `refused` (indices), are drawn here."""
    data, indices = maker.preparation.data, plan.indices
    count = len(indices)
    files = [_BLACK_PIXEL] * count
    shown: list[View | None] = [None] * count
    sizes = np.ones((count, 2))  # (height, width) of the displayed pictures
    drawn: dict[int, Tensor] = {}
    broken: dict[str, str] = {}
    for slot, index in enumerate(indices.tolist()):
        if index == BLANK:
            continue
        try:
            ordinary = None if index in refused else _read(str(data.image_path(index)))
            if ordinary is None:
                canvas = empty_images(1, plan.canvas)[0]
                shown[slot] = maker.draw(index, plan, canvas)
                drawn[slot] = canvas
            else:
                shown[slot] = maker.preparation.view(index, ordinary[1], plan)
                files[slot], sizes[slot] = ordinary
        except DataError as error:
            broken[str(data.image_path(index))] = str(error)
    by_dali = [None if slot in drawn else view for slot, view in enumerate(shown)]
    batch = assemble_images(data, indices, shown, torch.empty(0))
    placement, colours = _place(by_dali, sizes, plan.canvas), maker.preparation.colours(plan)
    return EncodedBatch(plan, files, placement, batch, drawn, broken, colours)


def _read(path: str) -> tuple[np.ndarray, tuple[int, int]] | None:
    """A file and its displayed size (h, w); None for anything that DALI may see differently, or choke on."""
    try:
        content = read_content(path)
    except OSError:
        return None
    header = read_header(content)
    if header is None or not is_whole(content, header):
        return None
    return np.frombuffer(content, np.uint8), header.size


def _place(views: list[View | None], sizes: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """`EncodedBatch.placement`; `sizes` `[N, 2]` are those of the displayed pictures."""
    resized, corner, shown = (
        np.array([getattr(view, name) if view else nothing for view in views], float)
        for name, nothing in (("resized", (1, 1)), ("corner", (0, 0)), ("size", (1, 1)))
    )
    start, end = corner * sizes / resized, (corner + shown) * sizes / resized
    flip = np.array([view is not None and view.flip for view in views])
    start[flip, 1], end[flip, 1] = end[flip, 1], start[flip, 1]
    return np.stack([start, end, shown, np.broadcast_to(canvas, shown.shape)], axis=1).astype(np.float32)


def _black_pixel() -> np.ndarray:
    file = BytesIO()
    Image.new("L", (1, 1)).save(file, "jpeg")
    return np.frombuffer(file.getvalue(), np.uint8)


_BLACK_PIXEL = _black_pixel()
