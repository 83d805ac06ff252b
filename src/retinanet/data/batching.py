"""Single pictures put together into a `Batch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from retinanet.preprocess import Placed
from retinanet.types import NO_LABEL, Batch

MIN_TARGETS = 32
"""Target slots of a batch: this number, doubled until its fullest image fits, so that few shapes occur."""


class Sample(NamedTuple):
    """A picture on its canvas, and its k targets there."""

    placed: Placed
    image_id: int
    boxes: np.ndarray
    """float32 `[k, 4]`."""
    labels: np.ndarray
    """int64 `[k]`."""
    crowd: np.ndarray
    """bool `[k]`."""


def assemble(canvas: tuple[int, int], samples: Sequence[Sample | None]) -> Batch:
    """N samples of one canvas (H, W) as a batch; None becomes a blank slot."""
    count, (height, width) = len(samples), canvas
    targets = MIN_TARGETS
    while targets < max((len(sample.labels) for sample in samples if sample), default=0):
        targets *= 2
    batch = Batch(
        images=torch.zeros(count, height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2),
        image_sizes=torch.zeros(count, 2, dtype=torch.int64),
        boxes=torch.zeros(count, targets, 4),
        labels=torch.full((count, targets), NO_LABEL),
        crowd=torch.zeros(count, targets, dtype=torch.bool),
        image_ids=torch.full((count,), -1),
        transforms=torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(count, 1),
    )
    for slot, sample in enumerate(samples):
        if sample is None:
            continue
        filled = len(sample.labels)
        batch.images[slot] = sample.placed.image
        batch.image_sizes[slot] = torch.tensor(sample.placed.size)
        batch.boxes[slot, :filled] = torch.from_numpy(sample.boxes)
        batch.labels[slot, :filled] = torch.from_numpy(sample.labels)
        batch.crowd[slot, :filled] = torch.from_numpy(sample.crowd)
        batch.image_ids[slot] = sample.image_id
        batch.transforms[slot] = torch.tensor(sample.placed.transform)
    return batch
