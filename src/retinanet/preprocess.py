"""From a picture to the network's input and back; training and prediction share it."""

from __future__ import annotations

import torch
from torch import Tensor


def normalise(images: Tensor, image_sizes: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The network's first step: uint8 `[N, 3, H, W]` to float `(images / 255 - mean) / std`, zero outside the picture.

    `image_sizes` `[N, 2]` is (height, width); `mean` and `std` `[3]` are in units of 0…1, and their dtype is the result's.
    """
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    inside_rows = rows < image_sizes[:, :1]
    inside_columns = columns < image_sizes[:, 1:]
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    scaled = (images.to(mean.dtype) / 255 - mean[:, None, None]) / std[:, None, None]
    return scaled * inside
