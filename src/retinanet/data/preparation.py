"""What is to be seen of a data set, step by step: the part of loading that every loader shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from retinanet.data.annotations import CocoData
from retinanet.data.augment import Augment, draw_view
from retinanet.data.colour import IDENTITY, draw_colours
from retinanet.data.sampler import BLANK, BatchPlan
from retinanet.data.views import View, fitted_view
from retinanet.errors import DataError

_COLOURS = 1
"""Names their random numbers, which are their own: so colours and views don't change with each other's options."""


class Plan(Protocol):
    """`TrainPlan` or `PredictPlan`."""

    steps_per_epoch: int

    def batch(self, step: int) -> BatchPlan:
        """What the global batch of a step is made of."""


@dataclass(frozen=True, eq=False)
class Preparation:
    """Pure functions of the step, and of (seed, epoch, image)."""

    data: CocoData
    plan: Plan
    resize: int
    """That the plan's canvases were chosen with; `max_size` too."""
    max_size: int
    augment: Augment | None = None
    """None: pictures are prepared as for prediction."""
    seed: int = 0
    rank: int = 0
    world: int = 1

    def batch(self, step: int) -> BatchPlan:
        """What this rank's slice of a step's batch is made of."""
        return self.plan.batch(step).for_rank(self.rank, self.world)

    def view(self, index: int, size: tuple[int, int], batch: BatchPlan) -> View:
        """How image `index`, displayed with `size` (h, w), is shown in `batch`.

        Raises `DataError` in training if the size is not the annotated one: boxes drawn on a picture of another size,
        or turned another way, would teach nonsense.
        """
        if self.augment is None:
            return fitted_view(size, batch.canvas, self.resize, self.max_size)
        height, width = self.data.sizes[index].tolist()
        if size != (height, width):
            raise DataError(
                f"Image {self.data.image_path(index)} should be {width}×{height} as annotated, but "
                f"is displayed as {size[1]}×{size[0]} pixels; correct the annotations, or its EXIF orientation."
            )
        random = np.random.default_rng([self.seed, batch.epoch, index])
        return draw_view(size, batch.canvas, self.resize, self.max_size, self.augment, random)

    def colours(self, batch: BatchPlan) -> Tensor | None:
        """Colour matrices float32 `[N, 3, 4]` for the images of `batch` (see `ops.recolour`); None without jitter."""
        strength = self.augment.colour_jitter if self.augment else 0.0
        if not strength:
            return None
        matrices = [
            IDENTITY
            if index == BLANK
            else draw_colours(strength, np.random.default_rng([self.seed, batch.epoch, index, _COLOURS]))
            for index in batch.indices.tolist()
        ]
        return torch.from_numpy(np.stack(matrices))
