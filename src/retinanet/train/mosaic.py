"""Mosaics: which batches of a run become pictures of four, of which four, and how many targets these have.

Bochkovskiy et al. 2020, "YOLOv4". Here four whole pictures at half size take the place of one, and a batch is stitched
or left, as in Chen et al. 2020, "Stitcher: Feedback-driven Data Provider for Object Detection": no object is cut, all
shapes are known beforehand, and smaller objects are what the network gets to see more of.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from retinanet.config import TrainConfig
from retinanet.data.annotations import CocoData
from retinanet.data.batching import target_slots
from retinanet.model.record import ModelRecord
from retinanet.train.stitch import TILES, mean_colour, stitch
from retinanet.types import Batch

LAST_PART = 0.25
"""The part of a run, its end, that shows no mosaics: it ends with objects of the sizes that prediction will meet.

Ge et al. 2021, "YOLOX", leave out 15 of 300 epochs; of 12 that share would be half an epoch. In the last quarter a
cosine has fallen to 15 % of its peak and less."""
_STREAM = 1
"""Keeps these random numbers apart from those of the sampler and the views, which begin with the same seed."""


@dataclass(frozen=True, eq=False)
class Mosaic:
    """What a run learns from in each step: a function of (seed, step) and the batch.

    All of a batch is stitched or nothing: what is left alone stays as it is and costs nothing, and all ranks take their
    slower steps together. Which batches those are is the same for any number of ranks; a picture's neighbours are not,
    for they come from the rank's own slots of the batch.
    """

    probability: float
    """That a batch becomes mosaics."""
    seed: int
    total_steps: int
    """Of the whole run."""
    data: CocoData
    """The images that the batches are made from."""
    colour: Tensor
    """uint8 `[3]`, RGB of what no picture covers."""

    def __call__(self, batch: Batch, step: int) -> Batch:
        """Mosaics of `batch`, or `batch` itself. Never waits for the device."""
        if step >= (1 - LAST_PART) * self.total_steps:
            return batch
        random = np.random.default_rng(np.random.SeedSequence((self.seed, step), spawn_key=(_STREAM,)))
        if random.random() >= self.probability:
            return batch
        image_ids = batch.image_ids.numpy()
        tiles = draw_tiles(image_ids, random)
        return stitch(batch, tiles, self._slots(image_ids, tiles), self.colour)

    def _slots(self, image_ids: np.ndarray, tiles: np.ndarray) -> int:
        """Target slots that hold whatever the pictures may have: how many targets they do, the device alone knows."""
        annotated = np.zeros(len(image_ids), np.int64)
        present = image_ids >= 0
        images = self.data.indices_of(image_ids[present])
        annotated[present] = self.data.offsets[images + 1] - self.data.offsets[images]
        return target_slots(int(annotated[tiles].sum(axis=1).max()))


def with_mosaics(
    batches: Iterable[Batch],
    train: TrainConfig,
    record: ModelRecord,
    data: CocoData,
    *,
    start_step: int,
    total_steps: int,
) -> Iterable[Batch]:
    """`batches`, which begin with that of `start_step`, some of them as mosaics where --mosaic asks for it."""
    if train.mosaic == 0:
        return batches
    mosaic = Mosaic(train.mosaic, train.seed, total_steps, data, mean_colour(record))
    return map(mosaic, batches, itertools.count(start_step))


def draw_tiles(image_ids: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Slots int64 `[N, 4]` whose pictures make each slot's mosaic: top left its own, top right, bottom left and right.

    Each picture comes four times, once in each corner, and a mosaic has four different ones where there are as many.
    Blank slots, of id -1, are in no mosaic but their own, which stays blank.
    """
    slots = np.arange(len(image_ids))
    circle = random.permutation(slots[image_ids >= 0])
    tiles = np.repeat(slots[:, None], TILES, axis=1)
    for corner in range(TILES):
        tiles[circle, corner] = np.roll(circle, -corner)
    return tiles
