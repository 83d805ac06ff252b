"""What every loader is: batches by steps, and the images that could not be used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.data.preparation import Preparation
from retinanet.data.readers import reading
from retinanet.errors import DataError
from retinanet.ops.recolour import recolour_
from retinanet.types import Batch


class Made(NamedTuple):
    """A batch on its way."""

    batch: Batch
    broken: dict[str, str]
    """What is wrong with the broken images met in making it, by path."""
    colours: Tensor | None = None
    """float32 `[N, 3, 4]`, the colour matrices that are still to be applied (see `ops.recolour`)."""

    def on(self, device: torch.device) -> Made:
        """It on `device`, with its colour matrices applied there, on the current stream."""
        batch = self.batch.to(device)
        if self.colours is not None:
            recolour_(batch.images, batch.image_sizes, self.colours.to(device, non_blocking=True))
        return Made(batch, self.broken)


class Loader(ABC):
    """Yields the `Batch` of each of `steps`.

    An image that can't be used becomes a blank slot and is listed in `broken`, path → what is wrong with it. Iterating
    raises `DataError` when not one image could be used in an epoch's worth of steps, or to the end; but not for one
    rank of several (`shared`), whose share alone says little.
    """

    def __init__(self, preparation: Preparation, steps: range, shared: bool = False) -> None:
        self.preparation = preparation
        self._shared = shared or preparation.world > 1
        self.steps = steps
        self.broken: dict[str, str] = {}

    @abstractmethod
    def _make(self) -> Iterator[Made]:
        """All batches in order."""

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Batch]:
        usable = 0
        with reading(self._make) as made:
            for done, (batch, broken, _) in enumerate(made, start=1):
                self.broken.update(broken)
                usable += int((batch.image_ids >= 0).sum())
                if (
                    not (usable or self._shared)
                    and self.broken
                    and done in (self.preparation.plan.steps_per_epoch, len(self))
                ):
                    first = next(iter(self.broken.values()))
                    raise DataError(f"None of the {len(self.broken)} images could be used; the first: {first}")
                yield batch
