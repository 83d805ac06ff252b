"""What a run says and keeps: windows of losses, skipped steps, and rows of metrics.csv."""

import csv
from pathlib import Path

import pytest
import torch

from retinanet.errors import RetinaNetError
from retinanet.train.log import EVERY, MAX_BAD_STEPS, TrainLog
from retinanet.train.metrics_file import MetricsFile
from retinanet.train.step import StepLosses

CPU = torch.device("cpu")


def losses(value: float, *, bad: bool = False) -> StepLosses:
    number = torch.tensor(float("nan") if bad else value)
    return StepLosses(number, number * 2, torch.tensor(float(bad)))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(model: Path, values: list[StepLosses], *, start: int = 0, total: int | None = None) -> None:
    log = TrainLog(
        MetricsFile(model, start_step=start), start_step=start, total_steps=total or start + len(values), device=CPU
    )
    with log:
        for done, value in enumerate(values, start=start + 1):
            log.step(done, 0, value, 0.1, 4)


def test_a_row_is_the_mean_of_its_window_without_the_bad_steps(tmp_path: Path) -> None:
    values = [losses(float(i), bad=i == 3) for i in range(EVERY)]
    run(tmp_path / "model.pth", values)
    (row,) = rows(tmp_path)
    good = [i for i in range(EVERY) if i != 3]
    assert float(row["class_loss"]) == pytest.approx(sum(good) / len(good), abs=1e-5)
    assert float(row["box_loss"]) == pytest.approx(2 * sum(good) / len(good), abs=1e-5)
    assert (row["step"], row["skipped_steps"]) == (str(EVERY), "1")


def test_ten_bad_steps_in_a_row_end_the_run_with_advice(tmp_path: Path) -> None:
    values = [losses(1.0, bad=5 <= i < 5 + MAX_BAD_STEPS) for i in range(EVERY)]
    with pytest.raises(RetinaNetError, match="--lr"):
        run(tmp_path / "model.pth", values)


def test_a_streak_is_seen_across_two_windows(tmp_path: Path) -> None:
    first = EVERY - MAX_BAD_STEPS // 2
    values = [losses(1.0, bad=first <= i < first + MAX_BAD_STEPS) for i in range(2 * EVERY)]
    with pytest.raises(RetinaNetError, match="finite"):
        run(tmp_path / "model.pth", values)


def test_nine_bad_steps_twice_do_not_end_it(tmp_path: Path) -> None:
    bad = [True] * (MAX_BAD_STEPS - 1) + [False]
    run(tmp_path / "model.pth", [losses(1.0, bad=b) for b in bad * 4])
    assert rows(tmp_path)[-1]["skipped_steps"] == str(4 * (MAX_BAD_STEPS - 1))


def test_resuming_replaces_the_rows_after_its_step_and_no_other_models(tmp_path: Path) -> None:
    run(tmp_path / "a.pth", [losses(1.0)] * (3 * EVERY))
    run(tmp_path / "b.pth", [losses(2.0)] * EVERY)
    run(tmp_path / "a.pth", [losses(3.0)] * EVERY, start=EVERY)
    found = [(row["model"], int(row["step"]), float(row["class_loss"])) for row in rows(tmp_path)]
    assert sorted(found) == [("a.pth", EVERY, 1.0), ("a.pth", 2 * EVERY, 3.0), ("b.pth", EVERY, 2.0)]


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "model.pth", [losses(1.25)] * EVERY)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"step {EVERY}/{EVERY}" in printed.err
    assert "class 1.250 box 2.500" in printed.err


def test_a_validation_that_is_made_again_replaces_its_row_alone(tmp_path: Path) -> None:
    model = tmp_path / "a.pth"
    for name in ("a.pth", "b.pth"):
        file = MetricsFile(tmp_path / name, start_step=0)
        file.append({"step": 6, "epoch": 0, "class_loss": "1.0"})
        file.append({"step": 6, "epoch": 0, "AP": "0.5"})
    MetricsFile(model, start_step=6)
    assert [(row["model"], row["AP"]) for row in rows(tmp_path)][1] == ("a.pth", "0.5")
    MetricsFile(model, start_step=6, validation_due=True)  # killed before the checkpoint that says that it was made
    found = [(row["model"], row["class_loss"], row["AP"]) for row in rows(tmp_path)]
    assert found == [("a.pth", "1.0", ""), ("b.pth", "1.0", ""), ("b.pth", "", "0.5")]
