"""Inputs of NMS for the tests of reference and kernels."""

import torch


def make_candidates(batch=2, count=300, classes=3, *, size=100.0, seed=0):
    """Boxes with sides of 10 to 50, corners within `size`; scores rounded so that many tie; a tenth is padding."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(batch, count, generator=generator).mul(100).round().div(100)
    corner, side = torch.rand(2, batch, count, 2, generator=generator)
    boxes = torch.cat([corner * size, corner * size + side * 40 + 10], -1)
    labels = torch.randint(classes, (batch, count), generator=generator)
    padding = torch.rand(batch, count, generator=generator) < 0.1
    return scores.where(~padding, 0), boxes.where(~padding[..., None], 0), labels.where(~padding, -1)


def around_the_threshold(threshold=0.5):
    """Pairs of one class whose IoU is the threshold in real numbers but falls just under, on or over it in float32."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=generator) * 1000
    size = torch.rand(200, 2, generator=generator) * 100 + 1
    whole = torch.cat([corner, corner + size], -1)
    part = whole.clone()
    part[:, 2] = corner[:, 0] + size[:, 0] * threshold
    part[1::4, 2] = part[1::4, 2].nextafter(torch.tensor(0.0))
    part[2::4, 2] = part[2::4, 2].nextafter(torch.tensor(torch.inf))
    boxes = torch.stack([whole, part], 1).reshape(1, 400, 4)
    labels = torch.arange(200).repeat_interleave(2)[None]
    return torch.linspace(1, 0.1, 400)[None], boxes, labels
