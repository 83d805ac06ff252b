"""What every runtime offers; a new kind of artifact is one new file beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.types import ClassMap, Detections


class Runtime(Protocol):
    """A loaded model: images in, detections on the canvas out."""

    classes: ClassMap
    resize: int
    """Shorter side, in pixels, that images are resized to."""
    max_size: int
    """Upper bound of the longer side."""
    canvas: tuple[int, int] | None
    """The one canvas (height, width) that it takes; None: any."""
    batch: tuple[int, int] | None
    """Fewest and most images of one call; None: any number."""
    device: torch.device
    """Where images are handed over and detections come back."""

    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Detections on the canvas for images uint8 `[N, 3, H, W]` and image_sizes `[N, 2]`, both on `device`."""
        ...


class ArtifactRuntime(ABC):
    """A `Runtime` of an exported file, which is described by its record."""

    def __init__(self, path: Path, record: ArtifactRecord, device: str | None) -> None:
        """Open the file at `path`. `device` is as the user gave it, None: whatever fits.

        Raises:
            ModelError: the file is damaged, or was made for another machine.
            UsageError: the device is not here, or the file does not run on it.
        """
        self.record = record
        self.classes = record.classes
        self.resize = record.resize
        self.max_size = record.max_size
        self.canvas: tuple[int, int] | None = record.canvas
        self.batch: tuple[int, int] | None = (record.batch[0], record.batch[2])
        self.device = self._open(path, device)

    @classmethod
    def from_file(cls, path: Path, device: str | None) -> Self:
        """Open an artifact that stands on its own. Raises as the constructor does."""
        return cls(path, cls.read_record(path), device)

    @staticmethod
    @abstractmethod
    def read_record(path: Path) -> ArtifactRecord:
        """The record of the file at `path`. Raises `ModelError` when it has none, or is not ours."""

    @abstractmethod
    def _open(self, path: Path, device: str | None) -> torch.device:
        """Make the file ready to run; return where its inputs and outputs live."""

    @abstractmethod
    def _run(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores float32 `[N, D]`, boxes float32 `[N, D, 4]` on the canvas, class indices int64 `[N, D]`."""

    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Detections on the canvas."""
        scores, boxes, labels = self._run(images, image_sizes)
        return Detections(scores, boxes, labels, (scores > 0).sum(1))
