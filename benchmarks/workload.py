"""Head outputs that look like a detector's, for measuring post-processing without a trained network."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from retinanet import boxes
from retinanet.model.anchors import cell_anchors
from retinanet.types import HeadOutputs

Kind = Literal["typical", "crowded", "everything passes"]
KINDS: tuple[Kind, ...] = ("typical", "crowded", "everything passes")
STRIDES = (8, 16, 32, 64, 128)
CENTRE_OFFSET = 0.5
NOISE_MEAN = {"typical": -6.5, "crowded": -5.0, "everything passes": 0.0}
LOWEST_LOGIT = -2.9
"""Just above the logit of the usual threshold, 0.05."""


class Workload(NamedTuple):
    """What decode takes."""

    outputs: HeadOutputs
    image_sizes: Tensor
    """int64 `[N, 2]`."""
    cell_anchors: Tensor
    """float32 `[L, A, 4]`."""


def make_workload(
    kind: Kind,
    batch: int,
    *,
    size: tuple[int, int] = (800, 1344),
    classes: int = 80,
    objects: int = 40,
    dtype: torch.dtype = torch.float16,
    device: str = "cuda",
    seed: int = 0,
) -> Workload:
    """Channels-last outputs for `batch` pictures that fill a canvas of `size` (height, width).

    Logits are noise of deviation 1 and, around each of `objects` objects, a cluster: all anchors of 3 × 3 cells have
    logits of deviation 2 around 0 for the object's class, and deltas that lead to its box but for a deviation of 0.1.
    'crowded' has more noise above the threshold; in 'everything passes' nothing lies below it.
    """
    generator = torch.Generator(device).manual_seed(seed)
    anchors = torch.tensor(cell_anchors(strides=STRIDES), device=device)
    logits, deltas = [], []
    for stride, of_cell in zip(STRIDES, anchors, strict=True):
        height, width = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
        grid = (batch, height, width, len(of_cell))
        logit = torch.randn(*grid, classes, generator=generator, device=device) + NOISE_MEAN[kind]
        delta = 0.1 * torch.randn(*grid, 4, generator=generator, device=device)
        _add_clusters(logit, delta, of_cell, stride, objects // len(STRIDES), generator)
        if kind == "everything passes":
            logit.clamp_(min=LOWEST_LOGIT)
        logits.append(logit.flatten(3).permute(0, 3, 1, 2).to(dtype))
        deltas.append(delta.flatten(3).permute(0, 3, 1, 2).to(dtype))
    strides = tuple((float(stride), float(stride)) for stride in STRIDES)
    image_sizes = torch.tensor([size], device=device).repeat(batch, 1)
    return Workload(HeadOutputs(tuple(logits), tuple(deltas), strides), image_sizes, anchors)


def _add_clusters(
    logit: Tensor, delta: Tensor, cell_anchors: Tensor, stride: int, objects: int, generator: torch.Generator
) -> None:
    """Draw `objects` objects an image into `logit` `[N, H, W, A, C]` and `delta` `[N, H, W, A, 4]` of one level."""
    batch, height, width, per_cell, classes = logit.shape
    device = logit.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch, objects, 1), generator=generator, device=device)

    y, x, label = draw(height), draw(width), draw(classes)
    side = stride * (4 + 4 * torch.rand(batch, objects, 1, 2, generator=generator, device=device))
    centre = stride * (torch.stack([x, y], -1) + CENTRE_OFFSET)
    box = torch.cat([centre - side / 2, centre + side / 2], -1)  # [N, objects, 1, 4]

    offset = torch.arange(9, device=device)
    rows = (y + offset // 3 - 1).clamp(0, height - 1)  # [N, objects, 9]
    columns = (x + offset % 3 - 1).clamp(0, width - 1)
    anchors = boxes.shift_anchors(cell_anchors, rows[..., None], columns[..., None], (stride, stride), CENTRE_OFFSET)
    image = torch.arange(batch, device=device)[:, None, None]
    shape = (batch, objects, 9, per_cell)
    logit[image, rows, columns, :, label] = 2 * torch.randn(shape, generator=generator, device=device)
    delta[image, rows, columns] = boxes.encode(box[..., None, :], anchors) + 0.1 * torch.randn(
        *shape, 4, generator=generator, device=device
    )
