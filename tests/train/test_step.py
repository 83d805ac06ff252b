"""One step: what it moves, and that a step that is not finite moves nothing at all."""

from __future__ import annotations

import math

import pytest
import torch
from step_cases import make_step, poison, state_of
from torch import nn

from command_line import Command, assert_same, metric_rows
from retinanet.model import criterion
from retinanet.types import Batch


def test_a_step_is_the_optimisers_step_on_the_mean_loss_of_a_positive_anchor(batches: list[Batch]) -> None:
    step, twin = make_step(), make_step()
    batch = batches[0]
    losses = step(batch, 0.01)

    sums = twin.criterion(twin.network(batch.images, batch.image_sizes), batch)
    loss = (sums.classification + sums.box) / sums.positives
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in twin.parameters if p.grad is not None))
    assert norm < step.clip_norm
    twin.optimizer.step()
    torch.testing.assert_close(losses.classification + losses.box, loss.detach())
    assert losses.bad.item() == 0
    for found, expected in zip(step.parameters, twin.parameters, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_large_gradient_is_clipped_to_the_norm(batches: list[Batch]) -> None:
    free, clipped = make_step(clip_norm=1e9), make_step(clip_norm=0.01)
    for step in (free, clipped):
        step(batches[0], 0.0)
    norms = [nn.utils.get_total_norm([p.grad for p in step.parameters]) for step in (free, clipped)]
    assert norms[1].item() == pytest.approx(0.01, rel=1e-3)
    for one, other in zip(free.parameters, clipped.parameters, strict=True):
        torch.testing.assert_close(other.grad, one.grad * (norms[1] / norms[0]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("value", "forward"), [(math.nan, True), (math.inf, True), (math.nan, False)])
@pytest.mark.parametrize("done", [0, 2])
def test_a_step_that_is_not_finite_moves_nothing(
    batches: list[Batch], optimizer: str, precision: str, value: float, forward: bool, done: int
) -> None:
    step = make_step(optimizer, precision)
    for batch in batches[:done]:
        assert step(batch, 0.001).bad.item() == 0
    before = state_of(step)
    sound = step.criterion
    poison(step, value, forward=forward)
    bad = step(batches[2], 0.001).bad.item()
    # In fp16 a gradient that overflows is the search for the loss's scale: skipped too, but no bad step.
    assert bad == (1 if forward or precision != "fp16" else 0)
    after = state_of(step)
    assert_same(after["optimizer"], before["optimizer"])
    names = before["network"] if bad else dict(step.network.named_parameters())
    assert_same({name: after["network"][name] for name in names}, {name: before["network"][name] for name in names})

    step.criterion = sound
    assert step(batches[3], 0.001).bad.item() == 0
    assert all(torch.isfinite(value).all() for value in step.network.state_dict().values())
    changed = [not torch.equal(p, before["network"][name]) for name, p in step.network.named_parameters()]
    assert sum(changed) > len(changed) / 2


def test_an_infinite_loss_of_finite_gradients_moves_nothing(batches: list[Batch]) -> None:
    step = make_step()
    with torch.no_grad():
        step.network.box_head.predict.bias.fill_(3e38)  # smooth L1 overflows, its gradient is 1
    before = state_of(step)
    losses = step(batches[0], 0.01)
    assert (losses.box.item(), losses.bad.item()) == (math.inf, 1)
    assert_same(state_of(step), before)


def test_weights_that_overflow_leave_batch_norms_statistics_alone(batches: list[Batch]) -> None:
    step = make_step()
    first = next(m for m in step.network.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        first.weight[0, 0, 0, 0] = math.inf
    before = state_of(step)
    assert step(batches[0], 0.01).bad.item() == 1
    assert_same(state_of(step), before)


def test_frozen_batch_norm_learns_nothing(batches: list[Batch]) -> None:
    step = make_step(weights="pretrained")
    before = state_of(step)
    step(batches[0], 0.1)
    norms = {
        f"{name}.{key}"
        for name, module in step.network.backbones.named_modules(prefix="backbones")
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for key in module.state_dict()
    }
    after = step.network.state_dict()
    assert norms
    assert all(torch.equal(after[key], before["network"][key]) for key in norms)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_learns_as_fp32_does(batches: list[Batch], precision: str) -> None:
    exact, rounded = make_step(), make_step(precision=precision)
    for batch in batches:
        expected, found = exact(batch, 0.01), rounded(batch, 0.01)
        assert found.bad.item() == 0
        torch.testing.assert_close(found.classification, expected.classification, rtol=0.02, atol=0)
        torch.testing.assert_close(found.box, expected.box, rtol=0.02, atol=0)


def test_a_batch_without_boxes_is_ordinary(batches: list[Batch]) -> None:
    batch = batches[0]
    empty = batch._replace(labels=torch.full_like(batch.labels, -1), boxes=torch.zeros_like(batch.boxes))
    blank = batch._replace(image_sizes=torch.zeros_like(batch.image_sizes), image_ids=torch.full((4,), -1))
    step = make_step()
    losses = step(empty, 0.01)
    assert (losses.box.item(), losses.bad.item()) == (0, 0)
    assert 0 < losses.classification.item() < math.inf
    losses = step(blank, 0.01)
    assert (losses.classification.item(), losses.box.item(), losses.bad.item()) == (0, 0, 0)


@pytest.fixture
def poisoned_run(monkeypatch: pytest.MonkeyPatch):
    """Make the box losses of some calls NaN."""

    def arrange(bad: range) -> None:
        calls = iter(range(10_000))
        monkeypatch.setattr(criterion, "box_loss", lambda *a: sound(*a) * (math.nan if next(calls) in bad else 1))

    sound = criterion.box_loss
    return arrange


def test_bad_steps_are_counted(train: Command, tmp_path, poisoned_run) -> None:
    poisoned_run(range(2, 5))
    done = train(tmp_path / "model.pth", iters=8)
    assert done.code == 0
    assert "3 steps skipped: not finite" in done.err
    (row,) = metric_rows(tmp_path / "model.pth")
    assert row["skipped_steps"] == "3"
    assert math.isfinite(float(row["box_loss"]))


def test_ten_bad_steps_in_a_row_end_the_run_with_advice(train: Command, tmp_path, poisoned_run) -> None:
    poisoned_run(range(4, 100))
    done = train(tmp_path / "model.pth", iters=30)
    assert done.code == 1
    assert all(word in done.sentence for word in ("--lr", "--warmup", "--precision"))
