"""Which images make which batch: pure functions of seed and step, the same on every machine and for any worker count.

A batch holds images of one canvas. The plan lays out global batches; ranks take slices of them. Step numbers run on
over the epochs, so that a loader never stops at an epoch's end and any step can be resumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLANK = -1
"""Index of a slot without an image."""


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """What one batch is made of."""

    canvas: tuple[int, int]
    """(height, width)."""
    indices: np.ndarray
    """int64 `[N]`, positions in the data; `BLANK` for a slot without an image."""
    epoch: int

    def for_rank(self, rank: int, world: int) -> BatchPlan:
        """This rank's slice, N / world slots, rounded up; blanks, which stand at the end, are spread over the ranks."""
        missing = -len(self.indices) % world
        slots = np.append(self.indices, np.full(missing, BLANK, self.indices.dtype))
        return BatchPlan(self.canvas, slots[rank::world], self.epoch)


class TrainPlan:
    """Every image once an epoch, shuffled among the images of its canvas; the order of the batches is shuffled too.

    `canvas_of_image` `[I]` indexes `canvases` (H, W); `batch` is the global batch size; seed ≥ 0. The last batch of a
    canvas is filled with blanks.
    """

    def __init__(self, canvas_of_image: np.ndarray, canvases: Sequence[tuple[int, int]], batch: int, seed: int) -> None:
        self._canvas_of_image, self._canvases, self._batch, self._seed = canvas_of_image, tuple(canvases), batch, seed
        self._shuffle(0)
        self.steps_per_epoch = len(self._indices)

    @property
    def pixels_per_epoch(self) -> int:
        """Those of all canvases that are filled in an epoch."""
        return sum(self._batch * math.prod(self._canvases[canvas]) for canvas in self._canvas.tolist())

    def batch(self, step: int) -> BatchPlan:
        """The global batch of step 0, 1, …, counted over the whole run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        return BatchPlan(self._canvases[self._canvas[position]], self._indices[position], epoch)

    def _shuffle(self, epoch: int) -> None:
        generator = np.random.default_rng([self._seed, epoch])
        images = generator.permutation(len(self._canvas_of_image))
        canvas, indices = _lay_out(images, self._canvas_of_image, self._batch)
        order = generator.permutation(len(indices))
        self._epoch, self._canvas, self._indices = epoch, canvas[order], indices[order]


class PredictPlan:
    """Every image once, in order, one canvas after the other; the last batch of each is filled with blanks.

    `images` `[J]` are the positions of those wanted, by default all. Of several ranks each takes whole batches, in
    turn: no image is seen twice, and some have one batch less.
    """

    def __init__(
        self,
        canvas_of_image: np.ndarray,
        canvases: Sequence[tuple[int, int]],
        batch: int,
        images: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._canvases = tuple(canvases)
        wanted = np.arange(len(canvas_of_image)) if images is None else images
        canvas, indices = _lay_out(wanted, canvas_of_image, batch)
        self._canvas, self._indices = canvas[rank::world], indices[rank::world]
        self.steps_per_epoch = len(self._indices)

    def batch(self, step: int) -> BatchPlan:
        """The batch of a step from 0 to `steps_per_epoch` - 1."""
        return BatchPlan(self._canvases[self._canvas[step]], self._indices[step], epoch=0)


def _lay_out(images: np.ndarray, canvas_of_image: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Split images `[I]`, keeping their order, into batches of one canvas: canvas `[S]` and indices `[S, batch]`."""
    canvas, indices = [], []
    for group in np.unique(canvas_of_image[images]):
        members = images[canvas_of_image[images] == group]
        blanks = -len(members) % batch
        indices.append(np.append(members, np.full(blanks, BLANK)).reshape(-1, batch))
        canvas.append(np.full(len(indices[-1]), group))
    return np.concatenate(canvas), np.concatenate(indices)
