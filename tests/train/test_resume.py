"""Stopping and going on: the same checkpoint, bit for bit, as not stopping; and what is refused."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import SMALL, Command, Shapes, assert_same, checkpoint, metric_rows, words_of
from retinanet.predict.results import Results
from retinanet.train import validation

STEPS = 8


@pytest.mark.parametrize(
    ("optimizer", "precision", "number"), [("sgd", "fp32", signal.SIGINT), ("adamw", "fp16", signal.SIGTERM)]
)
def test_a_run_that_was_stopped_ends_in_the_same_checkpoint(
    train: Command, shapes: Shapes, tmp_path: Path, stop_after, optimizer: str, precision: str, number: signal.Signals
) -> None:
    options = {**shapes.validation, "iters": STEPS, "optimizer": optimizer, "precision": precision, "jitter": (48, 80)}
    options["colour_jitter"] = 0.4
    stop_after(None)
    (tmp_path / "whole").mkdir()
    whole, stopped = tmp_path / "whole" / "model.pth", tmp_path / "model.pth"
    assert train(whole, **options).code == 0
    for step in (3, 6, 7, 8):  # within an epoch, and in steps that a validation follows
        stop_after(step, number)
        done = train(stopped, **options)
        assert done.code == 6
        assert f"after step {step} of {STEPS}" in done.sentence
        assert "same command" in done.sentence
        assert checkpoint(stopped)["training_state"]["step"] == step
    stop_after(None)
    assert train(stopped, **options).code == 0
    assert_same(checkpoint(stopped), checkpoint(whole))
    assert_same(checkpoint(stopped.with_name("model.best.pth")), checkpoint(whole.with_name("model.best.pth")))
    # The windows over which losses are averaged begin where a run does, so only validations can be compared.
    validations = [[row for row in metric_rows(path) if row["AP"]] for path in (stopped, whole)]
    assert validations[0] == validations[1]
    assert [row["step"] for row in validations[0]] == ["6", "8"]


@pytest.mark.slow
def test_a_process_that_gets_ctrl_c_saves_and_goes_on(train: Command, shapes: Shapes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    options = {**shapes.training, **SMALL, "iters": 100_000, "workers": 2, "warmup": 10}
    command = [sys.executable, "-m", "retinanet.cli", "train", str(path), *words_of(options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 20/"):
                break
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
        last = process.stderr.read()
        assert process.wait(timeout=60) == 6
    assert "Traceback" not in last
    assert "give the same command to go on" in last
    step = checkpoint(path)["training_state"]["step"]
    assert step >= 20
    assert train(path, iters=step + 1, warmup=10).code == 0
    assert checkpoint(path)["training_state"]["step"] == step + 1


def test_a_finished_run_says_so_and_goes_on_with_more_epochs(train: Command, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    assert train(path, epochs=1).code == 0
    before, rows = path.read_bytes(), metric_rows(path)
    done = train(path, epochs=1)
    assert (done.code, done.out) == (0, "")
    assert done.err.strip().splitlines() == [f"{path} has done 6 of 6 steps; raise --epochs or --iters to go on."]
    assert (path.read_bytes(), metric_rows(path)) == (before, rows)
    assert train(path, epochs=2).code == 0
    assert [row["step"] for row in metric_rows(path)] == ["6", "12"]


def test_override_starts_anew(train: Command, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    assert train(path, iters=2, seed=1).code == 0
    assert train(path, iters=2, seed=0, width=24, override=True).code == 0
    content = checkpoint(path)
    assert (content["training_state"]["step"], content["record"]["width"]) == (2, 24)
    assert len(metric_rows(path)) == 1


def test_another_weight_decay_counts_from_the_resumed_step_on(train: Command, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    assert train(path, iters=1, weight_decay=0.5).code == 0
    assert train(path, iters=2, weight_decay=0.25).code == 0
    groups = checkpoint(path)["training_state"]["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.25, 0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"width": 24}, "--width"),
        ({"backbone": "test_efficientnet"}, "--backbone"),
        ({"resize": 96}, "--resize"),
        ({"anchor_scale": 3}, "--anchor-scale"),
        ({"optimizer": "sgd"}, "--optimizer"),
        ({"batch": 5}, "--batch"),
    ],
)
def test_other_settings_are_refused(train: Command, trained: Path, options: dict, named: str) -> None:
    before = trained.read_bytes()
    done = train(trained, **{"optimizer": "adamw", **options})
    assert done.code == 2
    assert named in done.sentence
    assert "--override" in done.sentence
    assert trained.read_bytes() == before


def test_other_classes_are_refused(train: Command, trained: Path, own_shapes: Shapes) -> None:
    text = own_shapes.annotations.read_text()
    own_shapes.annotations.write_text(text.replace('"triangle"', '"cone"'))
    done = train(trained, data=own_shapes, optimizer="adamw")
    assert done.code == 4
    assert all(
        words in done.sentence for words in ("disc, rectangle, triangle", "disc, rectangle, cone", "--fine-tune")
    )


def test_the_best_weights_are_no_run_to_resume(train: Command, shapes: Shapes, tmp_path: Path) -> None:
    assert train(tmp_path / "model.pth", iters=1, **shapes.validation).code == 0
    done = train(tmp_path / "model.best.pth", iters=2)
    assert done.code == 2
    assert "--fine-tune" in done.sentence


@pytest.mark.parametrize(("step", "spared"), [(6, 0), (8, 1)])  # after the first epoch, and at the end
def test_a_stop_during_a_validation_loses_nothing(
    train: Command, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, spared: int
) -> None:
    options = {**shapes.validation, "iters": STEPS}
    (tmp_path / "whole").mkdir()
    whole, stopped = tmp_path / "whole" / "model.pth", tmp_path / "model.pth"
    assert train(whole, **options).code == 0
    detect, calls = validation.collect_results, itertools.count()

    def stop_in_one(*arguments: Any, stopped: Callable[[], bool], **named: Any) -> tuple[Results, int]:
        spare, batches = next(calls) < spared, itertools.count()

        def ask() -> bool:
            if not spare and next(batches) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return stopped()

        results, images = detect(*arguments, stopped=ask, **named)
        assert (images == 7) == spare
        return results, images

    with monkeypatch.context() as patch:
        patch.setattr(validation, "collect_results", stop_in_one)
        done = train(stopped, **options)
    assert done.code == 6
    assert f"after step {step} of {STEPS}" in done.sentence
    state = checkpoint(stopped)["training_state"]
    assert (state["step"], state["validation_due"]) == (step, True)
    assert train(stopped, **options).code == 0
    assert_same(checkpoint(stopped), checkpoint(whole))
    assert_same(checkpoint(stopped.with_name("model.best.pth")), checkpoint(whole.with_name("model.best.pth")))
    assert [row for row in metric_rows(stopped) if row["AP"]] == [row for row in metric_rows(whole) if row["AP"]]
