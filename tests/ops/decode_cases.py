"""Inputs of decode for the tests of reference and kernels: few, small and awkward."""

import torch

BOX_TOLERANCE = 4 * 2**-12
"""Pixels. Centres and half sizes reach 4096 before they are clipped, where float32 rounds by 2^-12; four roundings."""

SIZES = ((7, 9), (4, 5), (2, 3), (1, 2), (1, 1))


def make_case(
    *, batch=2, anchors=3, classes=5, sizes=SIZES, dtype=torch.float32, channels_last=True, mean=-1.0, seed=0
):
    """The arguments of `decode` but for its settings, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def draw(channels, height, width):
        values = torch.randn(batch, channels, height, width, generator=generator)
        return values.to(dtype).contiguous(memory_format=layout)

    logits = [(draw(anchors * classes, *size) * 2 + mean).contiguous(memory_format=layout) for size in sizes]
    deltas = [draw(anchors * 4, *size) for size in sizes]
    image_sizes = torch.tensor([[50, 70], [40, 60], [64, 64], [0, 0]])[:batch]
    half = torch.rand(len(sizes), anchors, 2, generator=generator) * 20 + 1
    strides = [(8.0 * 2**level, 9.0 * 2**level) for level in range(len(sizes))]
    return logits, deltas, image_sizes, torch.cat([-half, half], -1), strides


def spoil(values, seed=0):
    """A copy in which half of the values are NaN, infinite or (signed) zero."""
    values = values.clone()
    pick = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed))
    for index, value in enumerate((float("nan"), float("inf"), -float("inf"), 0.0, -0.0)):
        values[(pick >= 0.1 * index) & (pick < 0.1 * (index + 1))] = value
    return values
