"""The joined convolution: its gradients, and that compilers know it."""

import pytest
import torch
from torch.nn import functional as F

from retinanet.ops.conv_relu import conv_relu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = [((1, 1), (1, 1), (1, 1)), ((2, 1), (0, 2), (1, 1)), ((1, 2), (2, 2), (2, 1))]


def draw(geometry, *, bias=True, residual=True, dtype=torch.float64, requires_grad=True):
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype).to(DEVICE).requires_grad_(requires_grad)

    x, weight = tensor(2, 3, 7, 6), tensor(4, 3, 3, 3)
    shape = F.conv2d(x, weight, None, *geometry).shape
    return x, weight, tensor(4) if bias else None, tensor(*shape) if residual else None


@pytest.mark.parametrize("geometry", CASES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_it_is_what_its_name_says_and_so_are_its_gradients(geometry, bias, residual):
    tensors = draw(geometry, bias=bias, residual=residual)
    x, weight, b, r = tensors
    expected = F.relu(F.conv2d(x, weight, b, *geometry) + (0 if r is None else r))
    found = conv_relu(*tensors, *geometry)
    torch.testing.assert_close(found, expected)
    given = [tensor for tensor in tensors if tensor is not None]
    direction = torch.randn_like(expected)
    for one, two in zip(
        torch.autograd.grad(found, given, direction), torch.autograd.grad(expected, given, direction), strict=True
    ):
        torch.testing.assert_close(one, two)


def test_gradients_that_nobody_wants_are_not_computed():
    x, weight, bias, residual = draw(CASES[0])
    found = conv_relu(x.detach(), weight, bias.detach(), residual.detach(), *CASES[0])
    (gradient,) = torch.autograd.grad(found.sum(), [weight])
    assert gradient.shape == weight.shape


@pytest.mark.parametrize("residual", [True, False])
def test_opcheck(residual):
    torch.library.opcheck(conv_relu, (*draw(CASES[1], residual=residual, dtype=torch.float32), *CASES[1]))


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
