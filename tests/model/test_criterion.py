import math
from dataclasses import replace

import pytest
import torch

from retinanet import boxes as box_ops
from retinanet.model.criterion import Criterion
from retinanet.model.losses import box_quality, quality_loss
from retinanet.model.network import RetinaNet
from retinanet.model.record import MatchingRecord

RULES = {
    "classic": {},
    "giou": {"box_loss": "giou"},
    "modern": {"box_loss": "giou", "class_loss": "quality", "matching": MatchingRecord("atss")},
}


@pytest.fixture(params=RULES)
def network(record, request) -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(replace(record, **RULES[request.param])).eval()


def test_sums_equal_those_of_single_images(network, batch):
    criterion = Criterion(network)
    outputs = network(batch.images, batch.image_sizes)
    together = criterion(outputs, batch)
    singles = []
    for image in range(4):
        one = slice(image, image + 1)
        levels = outputs._replace(
            logits=tuple(level[one] for level in outputs.logits), deltas=tuple(level[one] for level in outputs.deltas)
        )
        singles.append(criterion(levels, type(batch)(*(value[one] for value in batch))))
    assert together.positives == sum(single.positives for single in singles) > 0
    torch.testing.assert_close(together.classification, sum(single.classification for single in singles))
    torch.testing.assert_close(together.box, sum(single.box for single in singles))
    assert singles[1].positives == singles[1].box == 0  # no object: background alone
    assert singles[1].classification > 0
    assert singles[2].positives == 0  # a crowd alone
    assert singles[3].classification == singles[3].box == 0  # a blank slot teaches nothing


def test_perfect_outputs_cost_next_to_nothing(network, batch):
    outputs = network(batch.images, batch.image_sizes)
    anchors = network.anchors(outputs)
    matched, labels = Criterion(network).match(anchors, outputs, batch)
    positive = labels >= 0
    boxes = batch.boxes[torch.arange(4)[:, None], matched]
    deltas = torch.zeros(*labels.shape, 4)
    deltas[positive] = box_ops.encode(boxes, anchors.expand(4, -1, -1))[positive]
    logits = torch.full((*labels.shape, 3), -20.0)
    logits[positive, labels[positive]] = 20.0
    sizes = [level.shape[2] * level.shape[3] * 9 for level in outputs.logits]

    def as_levels(values: torch.Tensor, like: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(
            part.reshape(4, level.shape[2], level.shape[3], -1).permute(0, 3, 1, 2)
            for part, level in zip(values.split(sizes, dim=1), like, strict=True)
        )

    perfect = outputs._replace(logits=as_levels(logits, outputs.logits), deltas=as_levels(deltas, outputs.deltas))
    sums = Criterion(network)(perfect, batch)
    assert sums.positives == positive.sum() > 0
    assert sums.classification < 1e-4
    assert sums.box < 1e-3
    assert Criterion(network)(outputs, batch).box > 1


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_deltas_that_are_not_positive_never_reach_the_gradient(network, batch, poison):
    outputs = network(batch.images, batch.image_sizes)
    leaves = [level.detach().requires_grad_() for level in outputs.deltas]
    spoiled = [level.clone() for level in leaves]
    for level in spoiled:
        level[1:] = poison  # images without a positive anchor, and the blank slot
    box = Criterion(network)(outputs._replace(deltas=tuple(spoiled)), batch).box
    box.backward()
    assert torch.isfinite(box)
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)
    assert any((leaf.grad != 0).any() for leaf in leaves)


def test_degenerate_boxes_cost_nothing_and_break_nothing(network, batch):
    batch.boxes[1, 0] = torch.tensor([30.0, 30, 30, 50])
    batch.labels[1, 0] = 1
    outputs = network(batch.images, batch.image_sizes)
    sums = Criterion(network)(outputs, batch)
    (sums.classification + sums.box).backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_half_precision_outputs_give_float32_sums(network, batch):
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(batch.images, batch.image_sizes)
    sums = Criterion(network)(outputs, batch)
    assert sums.classification.dtype == sums.box.dtype == torch.float32


@pytest.mark.parametrize("network", ["classic", "modern"], indirect=True)
def test_network_and_losses_compile_without_a_break(network, batch):
    criterion = Criterion(network)

    def step() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return tuple(criterion(network(batch.images, batch.image_sizes), batch))

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(), step())


def test_losses_never_wait_for_the_device(network, batch, monkeypatch):
    """Every wait goes through a value that Python asks for: none may be asked."""
    outputs = network(batch.images, batch.image_sizes)

    def waits(*_: object) -> None:
        raise AssertionError("the losses asked for a value")

    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, waits)
    Criterion(network)(outputs, batch)


def slow_quality_loss(logits: torch.Tensor, labels: torch.Tensor, quality: torch.Tensor) -> float:
    """Li et al. 2020, equation 2 with beta 2, entry by entry; `logits` `[M, C]`."""
    total = 0.0
    for row, label, fit in zip(logits.tolist(), labels.tolist(), quality.tolist(), strict=True):
        if label == -2:
            continue
        for index, logit in enumerate(row):
            p = 1 / (1 + math.exp(-logit))
            y = fit if index == label else 0.0
            total += abs(y - p) ** 2 * -((1 - y) * math.log(1 - p) + y * math.log(p))
    return total


def test_quality_loss_and_its_gradient_equal_the_papers_equation():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6, 3, 4), (2, 6, 1, 2)]  # 2 anchors of 3 classes
    logits = [(3 * torch.randn(shape, generator=generator)).requires_grad_() for shape in shapes]
    anchors = 2 * (12 + 2)
    labels = torch.randint(-2, 3, (2, anchors), generator=generator)
    quality = torch.rand(2, anchors, generator=generator).where(labels >= 0, 0)
    assert {-2, -1, 0, 1, 2} == set(labels.unique().tolist())

    loss = quality_loss(tuple(logits), labels, quality, 3)
    rows = torch.cat([level.permute(0, 2, 3, 1).reshape(2, -1, 3) for level in logits], dim=1)
    expected = sum(slow_quality_loss(rows[n], labels[n], quality[n]) for n in range(2))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)

    (gradient,) = torch.autograd.grad(loss, logits[:1])
    step = 1e-2
    for index in [(0, 0, 0, 0), (1, 5, 2, 3), (0, 3, 1, 1)]:
        moved = []
        for sign in (1, -1):
            other = logits[0].detach().double().clone()
            other[index] += sign * step
            flat = torch.cat([other.permute(0, 2, 3, 1).reshape(2, -1, 3), rows[:, 24:]], dim=1).detach()
            moved.append(sum(slow_quality_loss(flat[n], labels[n], quality[n]) for n in range(2)))
        assert float(gradient[index]) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-3, abs=1e-4)


def test_quality_is_the_predicted_boxs_iou_and_teaches_no_box():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    deltas = torch.tensor([[[0.0, 0, 0, 0], [0.5, 0, 0, 0], [math.nan, 0, 0, 0]]], requires_grad=True)
    targets = torch.tensor([[[0.0, 0, 10, 20], [0, 0, 10, 10], [0, 0, 10, 10]]])
    quality = box_quality(deltas, anchors, targets, torch.tensor([[True, True, False]]))
    assert quality[0].tolist() == pytest.approx([0.5, 1 / 3, 0])
    assert not quality.requires_grad
