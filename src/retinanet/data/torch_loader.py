"""Batches from image files, made on the CPU by PyTorch's worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from retinanet.data.annotations import CocoData
from retinanet.data.augment import Augment
from retinanet.data.batching import assemble_images, empty_images
from retinanet.data.loader import Loader, Made
from retinanet.data.prefetch import prefetch
from retinanet.data.preparation import Plan, Preparation
from retinanet.data.readers import made_by_readers
from retinanet.data.sampler import BLANK, BatchPlan
from retinanet.data.views import View, show
from retinanet.errors import DataError

CPU = torch.device("cpu")


class TorchLoader(Loader):
    """See `Loader`. The batches are the same for any number of workers.

    `resize` and `max_size` are those that the plan's canvases were chosen with. Without `augment` pictures are
    prepared as for prediction. The steps go from `start_step` to `total_steps` - 1, which counts from the run's start
    and is one epoch by default.
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
        device: torch.device = CPU,
    ) -> None:
        steps = range(start_step, plan.steps_per_epoch if total_steps is None else total_steps)
        super().__init__(Preparation(data, plan, resize, max_size, augment, seed, rank, world), steps, shared)
        self.device = device
        maker = BatchMaker(self.preparation, device)
        self._batches = made_by_readers(maker, steps, workers, pinned=device.type == "cuda")

    def _make(self) -> Iterator[Made]:
        made = iter(self._batches)  # now, not with the first batch: `reading` looks who was started
        return prefetch(made, self.device) if self.device.type == "cuda" else made


@dataclass(frozen=True, eq=False)
class BatchMaker(Dataset[Made]):
    """Step → its batch, and what is wrong with the broken images met on the way. Runs in the workers."""

    preparation: Preparation
    device: torch.device = CPU
    """Where the batches go. A GPU applies their colour matrices itself."""

    def __getitem__(self, step: int) -> Made:
        made = self.make(self.preparation.batch(step))
        return made if self.device.type == "cuda" else made.on(CPU)

    def make(self, plan: BatchPlan) -> Made:
        """The batch that `plan` describes, its colours as they were."""
        data, indices = self.preparation.data, plan.indices
        images = empty_images(len(indices), plan.canvas)
        shown: list[View | None] = [None] * len(indices)
        broken = {}
        for slot, index in enumerate(indices.tolist()):
            try:
                if index != BLANK:
                    shown[slot] = self.draw(index, plan, images[slot])
                    continue
            except DataError as error:
                broken[str(data.image_path(index))] = str(error)
            images[slot] = 0
        return Made(assemble_images(data, indices, shown, images), broken, self.preparation.colours(plan))

    def draw(self, index: int, plan: BatchPlan, canvas: Tensor) -> View:
        """Show image `index` on its `canvas` `[3, H, W]`. Raises `DataError` if it can't be used."""
        image = self.preparation.data.read(index)
        view = self.preparation.view(index, (image.shape[1], image.shape[2]), plan)
        show(image, view, canvas)
        return view
