"""Four pictures at half size in one, with their targets: whole batch, on its device, fixed shapes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from retinanet.model.record import ModelRecord
from retinanet.types import NO_LABEL, Batch

TILES = 4
LEAST_SIDE = 1.0
"""Pixels: a box of which less is left in width or height is dropped."""


def mean_colour(record: ModelRecord) -> Tensor:
    """uint8 `[3]`, the RGB nearest to what the network sees of padding, which is zero after its normalisation.

    Of an ensemble, whose members normalise for themselves, it is their mean.
    """
    mean = torch.tensor([backbone.mean for backbone in record.backbones]).mean(dim=0)
    return (255 * mean).round().to(torch.uint8)


def stitch(batch: Batch, tiles: np.ndarray, slots: int, colour: Tensor) -> Batch:
    """Mosaics on the canvas (H, W) of `batch`, whose sides must be even. Never waits for the device.

    Each quarter of the canvas holds a picture at half size, in its top left corner. A blank slot stays blank, ids and
    ways back are those of the pictures at the top left.

    Args:
        batch: N images.
        tiles: int64 `[N, 4]`, which images make each mosaic: top left, top right, bottom left, bottom right.
        slots: targets of a mosaic, at least as many as its four pictures have.
        colour: uint8 `[3]`, RGB of what no picture covers.
    """
    device, (count, _, height, width) = batch.images.device, batch.images.shape
    chosen = torch.from_numpy(tiles).to(device, non_blocking=True)
    halves = _halved(batch, colour.to(device, non_blocking=True))[chosen]  # [N, 4, H/2, W/2, 3]
    images = halves.view(count, 2, 2, height // 2, width // 2, 3).permute(0, 1, 3, 2, 4, 5)

    boxes = batch.boxes[chosen] / 2  # [N, 4, K, 4]
    used = (batch.labels[chosen] >= 0) & (boxes[..., 2:] - boxes[..., :2] >= LEAST_SIDE).all(dim=-1)
    boxes = (boxes + _corners(height // 2, width // 2, device)[:, None]).flatten(1, 2)
    used = used.flatten(1)
    # Matching looks at every slot, so those in use are moved to the front, and no more kept than may be in use.
    kept = torch.sort(used, dim=1, descending=True, stable=True).indices[:, :slots]  # [N, slots]
    used = used.gather(1, kept)

    present = (batch.image_sizes > 0).all(dim=1)
    return Batch(
        images=images.reshape(count, height, width, 3).permute(0, 3, 1, 2),
        image_sizes=torch.stack([torch.where(present, side, 0) for side in (height, width)], dim=1),
        boxes=boxes.gather(1, kept[..., None].expand(-1, -1, 4)).where(used[..., None], 0),
        labels=batch.labels[chosen].flatten(1).gather(1, kept).where(used, NO_LABEL),
        crowd=batch.crowd[chosen].flatten(1).gather(1, kept) & used,
        image_ids=batch.image_ids,
        transforms=torch.where(present[:, None], batch.transforms / 2, batch.transforms),
    )


def _halved(batch: Batch, colour: Tensor) -> Tensor:
    """uint8 `[N, H/2, W/2, 3]`: rounded means of four pixels each; around pictures `colour`, blank slots are black."""
    count, _, height, width = batch.images.shape
    rows = torch.arange(height, device=colour.device) < batch.image_sizes[:, :1]
    columns = torch.arange(width, device=colour.device) < batch.image_sizes[:, 1:]
    inside = rows[:, :, None, None] & columns[:, None, :, None]  # [N, H, W, 1]
    around = colour * (batch.image_sizes > 0).all(dim=1)[:, None]  # [N, 3]
    # Before halving: an odd picture's last row or column is then averaged with `colour`, not with black.
    pixels = torch.where(inside, batch.images.permute(0, 2, 3, 1), around.view(count, 1, 1, 3))  # [N, H, W, 3]
    # Integers: every device rounds alike. The sum of four is at most 1020.
    four = [pixels[:, row::2, column::2].to(torch.int16) for row in (0, 1) for column in (0, 1)]
    return ((four[0] + four[1] + four[2] + four[3] + 2) >> 2).to(torch.uint8)


def _corners(height: int, width: int, device: torch.device) -> Tensor:
    """int64 `[4, 4]`: what to add to the boxes of each tile of (height, width)."""
    tile = torch.arange(TILES, device=device)
    x, y = tile % 2 * width, tile // 2 * height
    return torch.stack([x, y, x, y], dim=1)
