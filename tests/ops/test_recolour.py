"""Recolouring against integer arithmetic, and the kernel against the reference: equal, without a tolerance."""

import numpy as np
import pytest
import torch

from retinanet.data.colour import STEP, colour_matrix
from retinanet.ops.recolour import recolour_, reference, triton

SIZES = [[27, 55], [1, 20], [0, 0]]
EXTREMES = [(2, 2, 2, 45), (0, 0, 0, -45), (1.3, 0.4, 1.9, -30)]
HALVES = np.array([[0.5, 0, 0, 0], [0, -0.5, 0, 128], [0, 0, 1.5, -0.5]], np.float32)  # where rounding is a tie


def draw(layout="channels-last"):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 33, 70), generator=random, dtype=torch.uint8)
    if layout == "a window of larger images":
        return images[..., 3:30, 5:60]
    images = images[..., :27, :55]
    return images.contiguous(memory_format=torch.channels_last) if layout == "channels-last" else images.contiguous()


def matrices_of(kind):
    matrices = [colour_matrix(*values) for values in EXTREMES] if kind == "extreme" else [HALVES] * 3
    return torch.from_numpy(np.stack(matrices))


def by_integers(images, sizes, matrices):
    """Pixel by pixel: floor(matrix @ (r, g, b, 1) + 1/2) in units of 1/2048, clamped."""
    result = images.clone()
    whole = np.round(matrices.double().numpy() / STEP).astype(int)
    for image, (height, width), matrix in zip(result, sizes, whole.tolist(), strict=True):
        for row in range(height):
            for column in range(width):
                pixel = [*image[:, row, column].tolist(), 1]
                mixed = [sum(m * value for m, value in zip(of_channel, pixel, strict=True)) for of_channel in matrix]
                image[:, row, column] = torch.tensor([min(max((units + 1024) // 2048, 0), 255) for units in mixed])
    return result


@pytest.mark.parametrize("kind", ["extreme", "ties"])
def test_it_is_exact_and_leaves_what_is_outside_the_pictures(kind):
    images, matrices = draw(), matrices_of(kind)
    expected = by_integers(images, SIZES, matrices)
    assert not torch.equal(expected, images)
    recolour_(images, torch.tensor(SIZES), matrices)
    assert torch.equal(images, expected)
    assert torch.equal(images[1:, :, 1:], draw()[1:, :, 1:])


@pytest.mark.parametrize("kind", ["extreme", "ties"])
@pytest.mark.parametrize("layout", ["channels-last", "planes", "a window of larger images"])
def test_the_kernel_equals_the_reference(layout, kind, device):
    images, sizes, matrices = draw(layout), torch.tensor(SIZES), matrices_of(kind)
    on_device = torch.empty_strided(images.shape, images.stride(), dtype=torch.uint8, device=device).copy_(images)
    triton.recolour_(on_device, sizes.to(device), matrices.to(device))
    reference.recolour_(images, sizes, matrices)
    assert torch.equal(on_device.cpu(), images)
