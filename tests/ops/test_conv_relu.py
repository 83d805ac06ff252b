"""The joined convolution is what its name says."""

import itertools

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from retinanet.ops.conv_relu import conv_relu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = [((1, 1), (1, 1), (1, 1)), ((2, 1), (0, 2), (1, 1)), ((1, 2), (2, 2), (2, 1))]


@pytest.mark.parametrize("geometry", CASES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_it_is_what_its_name_says(geometry, bias, residual):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE)

    x, weight, b = draw(2, 3, 7, 6), draw(4, 3, 3, 3), draw(4) if bias else None
    convolved = F.conv2d(x, weight, b, *geometry)
    r = draw(*convolved.shape) if residual else None
    expected = F.relu(convolved if r is None else convolved + r)
    torch.testing.assert_close(conv_relu(x, weight, b, r, *geometry), expected)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cudnn_has_it_in_half_precision(dtype):
    from retinanet.ops import conv_relu as room

    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((2, 64, 24, 40), (128, 64, 3, 3)))
    bias, residual = torch.randn(128, generator=generator), torch.randn(2, 128, 24, 40, generator=generator)
    rounded = [tensor.to(DEVICE, dtype) for tensor in (x, weight, bias, residual)]
    rounded = [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in rounded]
    found = conv_relu(*rounded, *CASES[0])
    x, weight, bias, residual = (tensor.float() for tensor in rounded)
    expected = F.relu(F.conv2d(x, weight, bias, *CASES[0]) + residual)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02 * float(expected.max()))
    assert not room._refused


def in_layouts(x_format, weight_format, device, dtype):
    x = torch.ones(2, 3, 7, 6, device=device, dtype=dtype).to(memory_format=x_format)
    return x, torch.ones(4, 3, 3, 3, device=device, dtype=dtype).to(memory_format=weight_format)


def by_cudnn(x, weight, residual, geometry):
    bias = weight.new_ones(4)
    if residual is None:
        return torch.ops.aten.cudnn_convolution_relu(x, weight, bias, *geometry, 1)
    return torch.ops.aten.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, *geometry, 1)


LAYOUTS = list(itertools.product((torch.channels_last, torch.contiguous_format), repeat=2))


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("geometry", CASES)
@pytest.mark.parametrize("residual", [True, False])
def test_compilers_know_what_cudnn_will_return(layouts, geometry, residual):
    """As PyTorch says it of an ordinary convolution on a GPU."""
    x, weight = in_layouts(*layouts, "meta", torch.float16)
    expected = F.conv2d(torch.ones(x.shape), torch.ones(weight.shape), None, *geometry)
    found = by_cudnn(x, weight, expected.to("meta", torch.float16) if residual else None, geometry)
    assert found.shape == expected.shape
    with FakeTensorMode():
        on_gpu = F.conv2d(*in_layouts(*layouts, "cuda", torch.float16), None, *geometry)
    assert found.stride() == on_gpu.stride()


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("residual", [True, False])
def test_cudnn_returns_what_compilers_know(layouts, residual):
    x, weight = in_layouts(*layouts, "cuda", torch.float16)
    z = F.conv2d(x, weight, None, *CASES[0]) if residual else None
    found = by_cudnn(x, weight, z, CASES[0])
    known = by_cudnn(x.to("meta"), weight.to("meta"), None if z is None else z.to("meta"), CASES[0])
    assert (found.shape, found.stride()) == (known.shape, known.stride())
