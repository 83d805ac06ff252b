"""Pictures and their targets put together into a `Batch`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from retinanet.data.annotations import CLIPPED, CocoData, clipped_corners
from retinanet.data.augment import place_boxes
from retinanet.data.sampler import BLANK
from retinanet.data.views import View
from retinanet.preprocess import Placed
from retinanet.types import NO_LABEL, Batch

MIN_TARGETS = 32
"""Target slots of a batch: this number, doubled until its fullest image fits, so that few shapes occur."""


def assemble(canvas: tuple[int, int], pictures: Sequence[Placed | None]) -> Batch:
    """N pictures on one canvas (H, W), without ids and targets; None becomes a blank slot."""
    ids = np.array([-1 if placed is None else 0 for placed in pictures])
    images = empty_images(len(pictures), canvas)
    for slot, placed in enumerate(pictures):
        images[slot] = 0 if placed is None else placed.image
    return _batch(images, pictures, ids, MIN_TARGETS)


def assemble_images(data: CocoData, indices: np.ndarray, shown: Sequence[View | None], images: Tensor) -> Batch:
    """The images `indices` `[N]` of a data set as they are `shown`, with their targets; None becomes a blank slot.

    `images` are the batch's. Of boxes hardly in sight `augment.place_boxes` decides.
    """
    indices = np.where([one is not None for one in shown], indices, BLANK)
    present = indices != BLANK
    first, end = np.where(present, [data.offsets[indices], data.offsets[indices + 1]], 0)
    # Of all boxes of all images, one after the other: the slot in the batch, and the row in the data.
    slot = np.repeat(np.arange(len(indices)), end - first)
    row = np.arange(len(slot)) + np.repeat(end - np.cumsum(end - first), end - first)
    usable = data.status[row] <= CLIPPED
    slot, row = slot[usable], row[usable]
    sizes, transforms = _geometry(shown)
    corners = clipped_corners(data.boxes[row], data.sizes[indices[slot]])
    boxes, keep = place_boxes(corners, transforms[slot], sizes[slot])
    slot, row = slot[keep], row[keep]

    column = np.arange(len(slot)) - np.searchsorted(slot, slot)
    slots = target_slots(int(column.max(initial=-1)) + 1)
    batch = _batch(images, shown, np.where(present, data.image_ids[indices], -1), slots)
    batch.boxes.numpy()[slot, column] = boxes
    batch.labels.numpy()[slot, column] = data.labels[row]
    batch.crowd.numpy()[slot, column] = data.crowd[row]
    return batch


def target_slots(targets: int) -> int:
    """K of a batch whose fullest image has so many targets."""
    slots = MIN_TARGETS
    while slots < targets:
        slots *= 2
    return slots


def empty_images(count: int, canvas: tuple[int, int]) -> Tensor:
    """uint8 `[N, 3, H, W]`, channels-last in memory, to be filled."""
    size = count * canvas[0] * canvas[1] * 3
    memory = torch.empty(size if get_worker_info() is None else 0, dtype=torch.uint8)
    if not len(memory):  # in a loader's worker: filled where the main process reads it, which saves a copy
        memory.set_(torch.UntypedStorage._new_shared(size), 0, (size,))  # type: ignore[call-overload,no-untyped-call]
    return memory.view(count, *canvas, 3).permute(0, 3, 1, 2)


def _batch(images: Tensor, shown: Sequence[Placed | View | None], ids: np.ndarray, slots: int) -> Batch:
    """Without targets, for which there are `slots`."""
    count = len(shown)
    sizes, transforms = _geometry(shown)
    return Batch(
        images=images,
        image_sizes=torch.from_numpy(sizes),
        boxes=torch.zeros(count, slots, 4),
        labels=torch.full((count, slots), NO_LABEL),
        crowd=torch.zeros(count, slots, dtype=torch.bool),
        image_ids=torch.from_numpy(ids),
        transforms=torch.from_numpy(transforms),
    )


def _geometry(shown: Sequence[Placed | View | None]) -> tuple[np.ndarray, np.ndarray]:
    """Sizes int64 `[N, 2]` and transforms float32 `[N, 4]`."""
    sizes = np.array([one.size if one else (0, 0) for one in shown], np.int64)
    transforms = np.array([one.transform if one else (1, 1, 0, 0) for one in shown], np.float32)
    return sizes, transforms
