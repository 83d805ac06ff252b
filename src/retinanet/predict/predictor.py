"""The front door from Python: paths, arrays or tensors in, detections in original pixels out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retinanet.config import PostprocessConfig, PredictConfig
from retinanet.data.batching import assemble
from retinanet.data.images import read_image, to_image
from retinanet.errors import DataError, UsageError
from retinanet.predict.runtimes.base import Runtime
from retinanet.predict.runtimes.kinds import open_runtime
from retinanet.preprocess import fit_to_canvas, group_by_canvas, restore_boxes
from retinanet.types import Batch, ClassMap, Detections

CANVASES = 6
"""Most that pictures of many shapes are sorted into. Each saves padding, and takes a moment to start on a GPU."""

Picture = str | os.PathLike[str] | np.ndarray | Tensor
"""A path; an array uint8 `[H, W, 3]`, RGB; or a tensor `[3, H, W]`, RGB, uint8 or floating point in 0…1."""


def load(
    path: str | os.PathLike[str],
    *,
    config: PredictConfig = PredictConfig(),
    postprocess: PostprocessConfig | None = None,
) -> Predictor:
    """Load a checkpoint or an exported artifact, told apart by the file's ending.

    `postprocess` is as `PostprocessConfig` has it, for an artifact as it was exported.

    Raises:
        ModelError: the file is missing, damaged, no model of ours, or an artifact for another machine.
        UsageError: the device asked for is not here, the options contradict what an artifact has fixed, or a package
            that runs it is missing.
    """
    return Predictor(open_runtime(Path(path), config, postprocess), config)


class Predictor:
    """A loaded model with the preparation of its images and the way back to their pixels."""

    def __init__(self, runtime: Runtime, config: PredictConfig = PredictConfig()) -> None:
        self.runtime = runtime
        self.loader = config.loader
        self.resize = config.resize or runtime.resize
        # A model's bound follows its shorter side, unless it is given.
        self.max_size = config.max_size or round(runtime.max_size * self.resize / runtime.resize)
        if runtime.canvas and config.canvas not in (None, runtime.canvas):
            raise UsageError(
                f"The model was exported for the canvas {runtime.canvas[0]} {runtime.canvas[1]}, so that --canvas "
                f"{config.canvas[0]} {config.canvas[1]} cannot be had; leave it out, or export the model again."
            )
        self.canvas = runtime.canvas or config.canvas
        self._fewest, most = runtime.batch or (1, config.batch)
        self.batch = max(self._fewest, min(config.batch, most))

    @property
    def classes(self) -> ClassMap:
        """What the labels of the detections mean."""
        return self.runtime.classes

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Detections:
        """Detections of each picture, in the order given, boxes in original pixels, on the CPU.

        Raises:
            DataError: a picture cannot be read, or an array or tensor has the wrong layout, type or range.
        """
        one = isinstance(pictures, str | np.ndarray) or not isinstance(pictures, Iterable)
        one = one or (isinstance(pictures, Tensor) and pictures.ndim != 4)
        several: Iterable[Any] = [pictures] if one else pictures  # type: ignore[assignment]
        images = [_as_image(picture) for picture in several]
        if not images:
            raise DataError("Expected at least one picture, but the list is empty; leave the call out.")
        sizes = np.array([image.shape[1:] for image in images])
        canvas_of_image, canvases = self.group_by_canvas(sizes)
        rows: dict[int, tuple[Tensor, ...]] = {}
        for index, canvas in enumerate(canvases):
            members = np.flatnonzero(canvas_of_image == index).tolist()
            for start in range(0, len(members), self.batch):
                chunk = members[start : start + self.batch]
                detections = self.run(self._on_canvas([images[i] for i in chunk], canvas))
                # Blank slots at the end are left behind.
                rows |= zip(
                    chunk, zip(*(column.cpu()[: len(chunk)] for column in detections), strict=True), strict=True
                )
        return Detections(*(torch.stack(column) for column in zip(*(rows[i] for i in range(len(images))), strict=True)))

    def group_by_canvas(self, sizes: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Canvases for pictures of original sizes `[I, 2]` (h, w), and the index `[I]` of each picture's."""
        if self.canvas:
            return np.zeros(len(sizes), np.int64), [self.canvas]
        return group_by_canvas(sizes, self.resize, self.max_size, CANVASES)

    def trim(self, batch: Batch) -> Batch:
        """The batch without the blank slots at its end. On a GPU all of it: its graphs are of whole batches."""
        if self.runtime.device.type == "cuda":
            return batch
        used = 1 + int(np.flatnonzero(batch.image_ids.numpy() >= 0).max(initial=0))
        return Batch(*(column[: max(used, self._fewest)] for column in batch))

    def run(self, batch: Batch) -> Detections:
        """Detections of a batch, boxes in original pixels, on the runtime's device."""
        images, image_sizes, transforms = (
            tensor.to(self.runtime.device, non_blocking=True)
            for tensor in (batch.images, batch.image_sizes, batch.transforms)
        )
        detections = self.runtime(images, image_sizes)
        return detections._replace(boxes=restore_boxes(detections.boxes, transforms))

    def _on_canvas(self, images: list[Tensor], canvas: tuple[int, int]) -> Batch:
        placed = [fit_to_canvas(image, self.resize, self.max_size, canvas) for image in images]
        return assemble(canvas, [*placed, *[None] * (self._fewest - len(placed))])


def _as_image(picture: Picture) -> Tensor:
    return read_image(picture) if isinstance(picture, str | os.PathLike) else to_image(picture)
