"""A batch learned in parts: what one large batch teaches, in less memory."""

from __future__ import annotations

import math
import weakref
from pathlib import Path

import pytest
import torch
from step_cases import make_step, poison, state_of
from torch import Tensor

from command_line import Command, assert_same
from retinanet.types import NO_LABEL, Batch


def lopsided(batch: Batch) -> Batch:
    """Objects in the first two images alone; the last slot is blank."""
    labels, image_sizes = batch.labels.clone(), batch.image_sizes.clone()
    labels[2:] = NO_LABEL
    image_sizes[3] = 0
    return batch._replace(labels=labels, image_sizes=image_sizes)


@pytest.mark.parametrize("parts", [2, 3, 4])  # 3: parts of two, two and no images
@pytest.mark.parametrize(("optimizer", "precision"), [("sgd", "fp32"), ("adamw", "fp32"), ("sgd", "fp16")])
def test_parts_give_the_step_of_the_whole_batch(
    batches: list[Batch], parts: int, optimizer: str, precision: str
) -> None:
    whole, split = (make_step(optimizer, precision, weights="pretrained", parts=n) for n in (1, parts))
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if precision == "fp32" else {"rtol": 2e-2, "atol": 1e-4}
    for batch in (lopsided(batches[0]), *batches[1:]):
        expected, found = whole(batch, 0.001), split(batch, 0.001)
        torch.testing.assert_close(found, expected, **tolerance)
        for one, other in zip(split.parameters, whole.parameters, strict=True):
            torch.testing.assert_close(one.grad, other.grad, **tolerance)
            torch.testing.assert_close(one, other, **tolerance)


def test_a_mean_of_the_parts_means_would_show(batches: list[Batch]) -> None:
    """What goes wrong elsewhere: every part divided by its own positives, and the quotients averaged."""
    batch = lopsided(batches[0])
    step = make_step(weights="pretrained")
    step(batch, 0.0)
    right = [parameter.grad.clone() for parameter in step.parameters]
    step.optimizer.zero_grad()
    for part in batch.split(2):
        sums = step.criterion(step.network(part.images, part.image_sizes), part)
        ((sums.classification + sums.box) / sums.positives.clamp(min=1) / 2).backward()
    wrong = [parameter.grad for parameter in step.parameters]
    worst = max(float((a - b).norm() / b.norm()) for a, b in zip(wrong, right, strict=True))
    assert worst > 0.1


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("only_call", [1, 2])
def test_one_bad_part_spoils_its_batch_and_no_other(batches: list[Batch], forward: bool, only_call: int) -> None:
    step = make_step("adamw", parts=2, ema=0.9)
    step(batches[0], 0.001)
    before, sound = state_of(step), step.criterion
    poison(step, math.nan, forward=forward, only_call=only_call)
    assert step(batches[1], 0.001).bad.item() == 1
    assert_same(state_of(step), before)
    step.criterion = sound
    assert step(batches[2], 0.001).bad.item() == 0
    assert all(torch.isfinite(value).all() for value in state_of(step)["network"].values())


def test_parts_hold_fewer_activations(batches: list[Batch]) -> None:
    def most_held(parts: int) -> int:
        """Bytes that autograd holds for the backward pass, at most at one time."""
        step = make_step(weights="pretrained", parts=parts)
        held = most = 0

        class Kept:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor

        def keep(tensor: Tensor) -> Kept:
            nonlocal held, most
            size = tensor.numel() * tensor.element_size()
            held += size
            most = max(most, held)
            kept = Kept(tensor)
            weakref.finalize(kept, release, size)
            return kept

        def release(size: int) -> None:
            nonlocal held
            held -= size

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
            step(batches[0], 0.001)
        return most

    assert most_held(4) < 0.4 * most_held(1)


def test_parts_that_do_not_divide_the_batch_are_refused(train: Command, tmp_path: Path) -> None:
    done = train(tmp_path / "model.pth", batch=4, accumulate=3)
    assert done.code == 2
    assert "--accumulate" in done.sentence
    assert "--batch (4)" in done.sentence
    assert train(tmp_path / "model.pth", accumulate=0).code == 2
