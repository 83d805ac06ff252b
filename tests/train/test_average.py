"""The averaged weights: their formula, that they are what is judged and kept, and that a run goes on with them."""

from __future__ import annotations

import math
import signal
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from step_cases import make_step, poison, state_of

from command_line import Command, Shapes, assert_same, checkpoint
from retinanet.predict.predictor import load
from retinanet.train.validation import Validation
from retinanet.types import Batch


def test_the_average_is_the_formulas(batches: list[Batch]) -> None:
    """Against a literal loop in float64, live batch norm's statistics included."""
    step = make_step("adamw", ema=0.3)
    expected = {name: value.double() for name, value in step.network.state_dict().items()}
    for updates, batch in enumerate(batches):
        step(batch, 0.01)
        decay = min(0.3, (1 + updates) / (10 + updates))
        for name, value in step.network.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
            else:
                expected[name] = value.double()
    found = step.average.network.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-7)
    moved = [name for name, value in step.network.state_dict().items() if not torch.equal(value, found[name])]
    assert any("running_var" in name for name in moved)
    assert any("predict.weight" in name for name in moved)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("value", "forward"), [(math.nan, True), (math.inf, False)])
def test_a_step_that_is_skipped_does_not_move_the_average(
    batches: list[Batch], precision: str, value: float, forward: bool
) -> None:
    step = make_step("sgd", precision, weights="pretrained", ema=0.5)
    for batch in batches[:2]:
        step(batch, 0.01)
    before = state_of(step)["average"]
    assert not torch.equal(before["class_head.predict.bias"], step.network.class_head.predict.bias)
    poison(step, value, forward=forward)
    step(batches[2], 0.01)
    assert_same(state_of(step)["average"], before)


def test_the_average_learns_nothing_by_itself(batches: list[Batch]) -> None:
    step = make_step(ema=0.5)
    step(batches[0], 0.01)
    assert not any(parameter.requires_grad for parameter in step.average.network.parameters())
    optimised = {parameter.data_ptr() for parameter in step.parameters}
    assert optimised.isdisjoint(parameter.data_ptr() for parameter in step.average.network.parameters())


def test_the_average_is_what_is_validated_and_kept(
    train: Command, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = []

    def keep(validation: Validation, stopped):
        judged.append(OrderedDict((k, v.clone()) for k, v in validation.network.state_dict().items()))
        return judge(validation, stopped)

    judge = Validation.__call__
    monkeypatch.setattr(Validation, "__call__", keep)
    path = tmp_path / "model.pth"
    assert train(path, iters=6, ema=0.9, lr=0.01, **shapes.validation).code == 0
    last, best = checkpoint(path), checkpoint(tmp_path / "model.best.pth")
    assert_same(best["state_dict"], judged[-1])
    assert_same(last["state_dict"], judged[-1])
    learning = last["training_state"]["weights"]
    assert not torch.equal(learning["class_head.predict.bias"], judged[-1]["class_head.predict.bias"])
    loaded = load(path).runtime.detector.network.state_dict()
    assert_same(loaded, judged[-1])


def test_a_run_with_average_and_parts_that_was_stopped_ends_in_the_same_checkpoint(
    train: Command, shapes: Shapes, tmp_path: Path, stop_after
) -> None:
    options = {**shapes.validation, "iters": 8, "ema": 0.9, "accumulate": 2}
    stop_after(None)
    (tmp_path / "whole").mkdir()
    whole, stopped = tmp_path / "whole" / "model.pth", tmp_path / "model.pth"
    assert train(whole, **options).code == 0
    for step in (3, 7):
        stop_after(step, signal.SIGTERM)
        assert train(stopped, **options).code == 6
    stop_after(None)
    assert train(stopped, **options).code == 0
    assert_same(checkpoint(stopped), checkpoint(whole))
    assert_same(checkpoint(stopped.with_name("model.best.pth")), checkpoint(whole.with_name("model.best.pth")))


def test_going_on_without_the_average_is_refused(train: Command, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    assert train(path, iters=1, ema=0.9).code == 0
    done = train(path, iters=2)
    assert done.code == 2
    assert "--ema" in done.sentence


@pytest.mark.parametrize("decay", [0, 1, 1.5, -0.1])
def test_decays_that_average_nothing_are_refused(train: Command, tmp_path: Path, decay: float) -> None:
    done = train(tmp_path / "model.pth", ema=decay)
    assert done.code == 2
    assert "--ema" in done.sentence
