import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from retinanet.ops.focal_loss import focal_loss, reference


def draw(shape=(4, 30, 7), scale=5.0):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator) * scale
    return logits, torch.randint(-2, shape[-1], shape[:-1], generator=generator)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 1.5)])
def test_unreduced_it_equals_torchvision_s(alpha, gamma):
    logits, labels = draw()
    targets = (labels[..., None] == torch.arange(7)).float()
    expected = sigmoid_focal_loss(logits, targets, alpha, gamma) * (labels != -2)[..., None]
    torch.testing.assert_close(reference.unreduced(logits, labels, alpha, gamma), expected)
    torch.testing.assert_close(focal_loss(logits, labels, alpha=alpha, gamma=gamma), expected.sum())


def test_its_gradient_is_that_of_its_values():
    logits, labels = draw((2, 5, 3))
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: reference.unreduced(x, labels, 0.25, 2.0), (logits,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_give_finite_losses_and_gradients(dtype):
    logits = torch.tensor([[-60000.0], [-100.0], [0.0], [100.0], [60000.0]], dtype=dtype).requires_grad_()
    for label in (-1, 0):
        loss = focal_loss(logits, torch.full((5,), label))
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_ignored_anchors_have_no_loss_and_no_gradient():
    logits, _ = draw()
    logits.requires_grad_()
    loss = focal_loss(logits, torch.full((4, 30), -2))
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()
