"""Ending early: after so many validations without a better AP, also across a stop, and as an ordinary end."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import Command, Shapes, checkpoint, metric_rows
from retinanet.train.validation import Validation


@pytest.fixture
def aps(monkeypatch: pytest.MonkeyPatch):
    """Let the validations of a run have these APs."""

    def arrange(*values: float) -> None:
        given = iter(values)

        def judged(validation: Validation, stopped):
            metrics = judge(validation, stopped)
            return replace(metrics, AP=next(given))

        monkeypatch.setattr(Validation, "__call__", judged)

    judge = Validation.__call__
    return arrange


def validated(model: Path) -> list[float]:
    return [float(row["AP"]) for row in metric_rows(model) if row["AP"]]


def test_a_run_ends_after_so_many_validations_without_a_better_ap(
    train: Command, shapes: Shapes, tmp_path: Path, aps
) -> None:
    aps(0.1, 0.3, 0.3, 0.4, 0.2, 0.4, 0.39, 0.9)
    path = tmp_path / "model.pth"
    done = train(path, epochs=20, patience=3, **shapes.validation)
    assert done.code == 0
    assert validated(path) == [0.1, 0.3, 0.3, 0.4, 0.2, 0.4, 0.39]  # an equal one is no better
    assert "Ended early: no better AP than 0.400 in 3 validations (--patience)" in done.err
    state = checkpoint(path)["training_state"]
    assert (state["step"], state["best"]) == (7 * 6, 0.4)
    assert (tmp_path / "model.report.html").exists()

    before = path.read_bytes()
    again = train(path, epochs=20, patience=3, **shapes.validation)
    assert again.code == 0
    assert "raise --patience" in again.err
    assert path.read_bytes() == before
    assert train(path, epochs=8, patience=4, **shapes.validation).code == 0
    assert validated(path)[-1] == 0.9


def test_validations_are_counted_across_a_stop(train: Command, shapes: Shapes, tmp_path: Path, aps, stop_after) -> None:
    aps(0.5, 0.1, 0.2, 0.6)
    path = tmp_path / "model.pth"
    stop_after(2 * 6 + 3, signal.SIGTERM)
    assert train(path, epochs=9, patience=2, **shapes.validation).code == 6
    stop_after(None)
    assert train(path, epochs=9, patience=2, **shapes.validation).code == 0
    assert validated(path) == [0.5, 0.1, 0.2]


def test_patience_needs_validations(train: Command, tmp_path: Path) -> None:
    done = train(tmp_path / "model.pth", patience=2)
    assert done.code == 2
    assert "--patience" in done.sentence
    assert "--val-images" in done.sentence
