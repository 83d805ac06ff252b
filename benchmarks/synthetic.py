"""Training batches of noise."""

from __future__ import annotations

import torch

from retinanet.types import Batch

BOXES = 16
"""An image's."""


def synthetic_batch(
    count: int, height: int, width: int, device: torch.device, *, classes: int = 80, slots: int = 32, seed: int = 0
) -> Batch:
    """Noise with `BOXES` boxes an image, whose sides are 2 to 27 % of the canvas's shorter one."""
    random = torch.Generator().manual_seed(seed)
    side = min(height, width)
    corner = torch.rand(count, BOXES, 2, generator=random) * torch.tensor([width, height]) * 0.7
    boxes = torch.zeros(count, slots, 4)
    extent = torch.rand(count, BOXES, 2, generator=random) * 0.25 * side + 0.02 * side
    boxes[:, :BOXES] = torch.cat([corner, corner + extent], dim=-1)
    labels = torch.full((count, slots), -1)
    labels[:, :BOXES] = torch.randint(0, classes, (count, BOXES), generator=random)
    images = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=random)
    return Batch(
        images=images.permute(0, 3, 1, 2),
        image_sizes=torch.tensor([[height, width]]).repeat(count, 1),
        boxes=boxes,
        labels=labels,
        crowd=torch.zeros(count, slots, dtype=torch.bool),
        image_ids=torch.arange(count),
        transforms=torch.tensor([[1.0, 1.0, 0.0, 0.0]]).repeat(count, 1),
    ).to(device)
