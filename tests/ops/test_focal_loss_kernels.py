import pytest
import torch

from retinanet.ops.focal_loss import _focal_loss as kernels
from retinanet.ops.focal_loss import reference

pytestmark = pytest.mark.usefixtures("poisoned")
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def draw(shape, dtype, scale=5.0):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(shape, generator=generator) * scale).to(dtype)
    return logits, torch.randint(-2, shape[-1], shape[:-1], generator=generator)


def loss_and_gradient(function, logits, labels, alpha=0.25, gamma=2.0):
    logits = logits.detach().clone().requires_grad_()
    loss = function(logits, labels, alpha, gamma)
    (3 * loss).backward()
    return loss.detach().cpu(), logits.grad.cpu()


def assert_kernels_agree(logits, labels, device, **settings):
    """Against float64: the loss to 1e-6 of itself, the gradient to two roundings of its dtype and float32's."""
    loss, gradient = loss_and_gradient(kernels, logits.to(device), labels.to(device), **settings)
    expected_loss, expected_gradient = loss_and_gradient(reference.focal_loss, logits.double(), labels, **settings)
    assert loss.dtype == torch.float32
    assert gradient.dtype == logits.dtype
    torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=2 * torch.finfo(logits.dtype).eps + 4e-6, atol=1e-7
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7, 5), (60, 80), (5, 1203)])
def test_loss_and_gradient(shape, dtype, device):
    assert_kernels_agree(*draw(shape, dtype), device)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.5, 0.0), (0.9, 1.5), (0.25, 5.0)])
def test_other_settings(alpha, gamma, device):
    assert_kernels_agree(*draw((40, 7), torch.float32), device, alpha=alpha, gamma=gamma)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_logits(dtype, device):
    logits = torch.tensor([[-60000.0], [-100.0], [-17.0], [0.0], [17.0], [100.0], [60000.0]], dtype=dtype)
    for label in (-1, 0):
        assert_kernels_agree(logits, torch.full((7,), label), device)


@pytest.mark.parametrize("label", [-1, -2])
def test_without_objects(label, device):
    logits, labels = draw((50, 9), torch.float32)
    assert_kernels_agree(logits, torch.full_like(labels, label), device)


def test_a_slice_of_logits(device):
    logits, labels = draw((20, 12), torch.float32)
    loss, gradient = loss_and_gradient(kernels, logits.to(device)[:, 3:8], labels.to(device).clamp(max=4))
    expected = loss_and_gradient(reference.focal_loss, logits[:, 3:8], labels.clamp(max=4))
    torch.testing.assert_close((loss, gradient), expected)
