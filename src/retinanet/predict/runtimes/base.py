"""What every runtime offers; a new kind of artifact is one new file beside this one."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from retinanet.types import ClassMap, Detections


class Runtime(Protocol):
    """A loaded model: images in, detections on the canvas out."""

    classes: ClassMap
    resize: int
    """Shorter side, in pixels, that images are resized to."""
    max_size: int
    """Upper bound of the longer side."""
    device: torch.device
    """Where images are handed over and detections come back."""

    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Detections on the canvas for images uint8 `[N, 3, H, W]` and image_sizes `[N, 2]`, both on `device`."""
        ...
