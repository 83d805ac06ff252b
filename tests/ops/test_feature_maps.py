"""The kernels against PyTorch's own operators."""

import pytest
import torch
from torch.nn import functional as F

from retinanet.ops.feature_maps import triton

SHAPES = [(2, 16, 13, 21), (1, 7, 5, 4), (3, 1, 1, 1), (2, 20, 40, 30), (0, 16, 8, 8)]


def draw(shape, dtype, device):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    return maps.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_bias_is_added(shape, dtype, device):
    maps, bias = draw(shape, dtype, device), torch.randn(shape[1]).to(device, dtype)
    expected = maps + bias[:, None, None]
    triton.add_bias(maps, bias)
    torch.testing.assert_close(maps, expected, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("geometry", [(3, 2, 1), (2, 2, 0), (3, 1, 1), (5, 3, 2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_max_pooling(shape, geometry, device, poisoned):
    if min(shape[2:]) + 2 * geometry[2] < geometry[0]:
        pytest.skip("PyTorch refuses maps smaller than the square")
    maps = draw(shape, torch.float16, device)
    maps[:, :, 0, 0] = float("-inf")
    found = triton.max_pool(maps, *geometry)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, F.max_pool2d(maps.float(), *geometry).half())


@pytest.mark.parametrize("factor", [(2, 2), (1, 1), (2.5, 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_upsampling(shape, factor, device, poisoned):
    maps, bias = draw(shape, torch.float16, device), torch.randn(shape[1]).to(device, torch.float16)
    size = [int(side * times) for side, times in zip(shape[2:], factor, strict=True)]
    found = triton.upsample(maps, size, bias)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, F.interpolate(maps + bias[:, None, None], size=size))
