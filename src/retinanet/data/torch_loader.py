"""Batches from image files, decoded by Pillow in PyTorch's worker processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from retinanet.data.annotations import CocoData
from retinanet.data.augment import Augment, augment_image, place_boxes
from retinanet.data.batching import Sample, assemble
from retinanet.data.images import read_image
from retinanet.data.sampler import BLANK, BatchPlan
from retinanet.errors import DataError
from retinanet.preprocess import fit_to_canvas
from retinanet.types import Batch

T = TypeVar("T")


class Plan(Protocol):
    """`TrainPlan` or `PredictPlan`."""

    steps_per_epoch: int

    def batch(self, step: int) -> BatchPlan:
        """What the global batch of a step is made of."""


class TorchLoader:
    """Yield the `Batch` of each step from `start_step` to `total_steps` - 1, the same for any number of workers.

    `resize` and `max_size` are those that the plan's canvases were chosen with. Without `augment` pictures are
    prepared as for prediction. `total_steps` counts from the run's start and is one epoch by default.

    An image that can't be used becomes a blank slot and is listed in `broken`, path → what is wrong with it. Iterating
    raises `DataError` when not one image could be used in an epoch's worth of steps, or to the end; but not for one
    rank of several (`shared`), whose share alone says little.
    """

    def __init__(
        self,
        data: CocoData,
        plan: Plan,
        resize: int,
        max_size: int,
        augment: Augment | None = None,
        workers: int = 0,
        seed: int = 0,
        start_step: int = 0,
        total_steps: int | None = None,
        rank: int = 0,
        world: int = 1,
        shared: bool = False,
    ) -> None:
        self.broken: dict[str, str] = {}
        self._shared = shared or world > 1
        self._plan = plan
        self._batches = DataLoader(
            _BatchMaker(data, plan, resize, max_size, augment, seed, rank, world),
            batch_size=None,  # an item is a whole batch, made by one worker
            sampler=range(start_step, plan.steps_per_epoch if total_steps is None else total_steps),
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=ignore_interrupt,
            generator=torch.Generator(),  # its own, so that iterating leaves the run's random state alone
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        usable = 0
        for done, (batch, broken) in enumerate(self._batches, start=1):
            self.broken.update(broken)
            usable += int((batch.image_sizes[:, 0] > 0).sum())
            if not (usable or self._shared) and self.broken and done in (self._plan.steps_per_epoch, len(self)):
                first = next(iter(self.broken.values()))
                raise DataError(f"None of the {len(self.broken)} images could be used; the first: {first}")
            yield batch


@dataclass(frozen=True, eq=False)
class _BatchMaker(Dataset):
    """Step → its batch, and what is wrong with the broken images met on the way. Runs in the workers."""

    data: CocoData
    plan: Plan
    resize: int
    max_size: int
    augment: Augment | None
    seed: int
    rank: int
    world: int

    def __getitem__(self, step: int) -> tuple[Batch, dict[str, str]]:
        plan = self.plan.batch(step).for_rank(self.rank, self.world)
        samples: list[Sample | None] = [None] * len(plan.indices)
        broken = {}
        for slot, index in enumerate(plan.indices.tolist()):
            if index != BLANK:
                try:
                    samples[slot] = self.sample(index, plan.canvas, plan.epoch)
                except DataError as error:
                    broken[str(self.data.image_path(index))] = str(error)
        return assemble(plan.canvas, samples), broken

    def sample(self, index: int, canvas: tuple[int, int], epoch: int) -> Sample:
        image = read_image(self.data.image_path(index))
        if self.augment is None:
            placed = fit_to_canvas(image, self.resize, self.max_size, canvas)
        else:
            self.check_size(index, image.shape[1], image.shape[2])
            random = np.random.default_rng([self.seed, epoch, index])
            placed = augment_image(image, canvas, self.resize, self.max_size, self.augment, random)
        corners, labels, crowd = self.data.training_boxes(index)
        boxes, keep = place_boxes(corners, placed)
        return Sample(placed, int(self.data.image_ids[index]), boxes, labels[keep], crowd[keep])

    def check_size(self, index: int, height: int, width: int) -> None:
        """Boxes drawn on a picture of another size, or turned another way, would teach nonsense."""
        declared_height, declared_width = self.data.sizes[index]
        if (height, width) != (declared_height, declared_width):
            raise DataError(
                f"Image {self.data.image_path(index)} should be {declared_width}×{declared_height} as annotated, but "
                f"is displayed as {width}×{height} pixels; correct the annotations, or its EXIF orientation."
            )


def _as_it_is(item: T) -> T:
    return item


def ignore_interrupt(worker: int) -> None:
    """For `worker_init_fn` of a data loader: leave Ctrl-C and SIGTERM to the main process."""
    # Terminals and job schedulers send them to the workers too; the main process saves its work and ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
