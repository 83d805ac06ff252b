"""What a run shows in TensorBoard, read back from its event files."""

from __future__ import annotations

import errno
import itertools
import sys
from pathlib import Path

import pytest

from command_line import Command, Shapes, metric_rows


def read(folder: Path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulators.EventAccumulator(str(folder))
    return found.Reload()


def test_losses_rates_metrics_and_pictures_are_shown(train: Command, shapes: Shapes, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    path, folder = tmp_path / "model.pth", tmp_path / "deep" / "runs"
    assert train(path, iters=6, logdir=folder, **shapes.validation).code == 0
    events = read(folder)
    losses, validation = metric_rows(path)
    for tag, value in {
        **{"loss/classes": losses["class_loss"], "loss/boxes": losses["box_loss"]},
        **{"training/learning rate": losses["learning_rate"], "validation/AP": validation["AP"]},
        **{"validation/ARm": validation["ARm"], "training/skipped steps": "0"},
    }.items():
        (event,) = events.Scalars(tag)
        assert (event.step, event.value) == (6, pytest.approx(float(value), rel=1e-5)), tag
    assert events.Scalars("training/images per second")[0].value > 0
    assert events.Tags()["images"] == [f"validation images/{n}" for n in (1, 2, 3, 4)]
    (picture,) = events.Images("validation images/1")
    assert picture.width == 2 * picture.height or picture.width == 3 * picture.height  # of 64×64 or 96×64, twice


def test_a_run_that_goes_on_adds_to_what_is_there(train: Command, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    path, folder = tmp_path / "model.pth", tmp_path / "runs"
    assert train(path, iters=20, logdir=folder).code == 0
    assert train(path, iters=40, logdir=folder).code == 0
    assert [event.step for event in read(folder).Scalars("loss/classes")] == [20, 40]


def test_a_missing_package_is_one_sentence_before_anything_is_done(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    done = train(tmp_path / "model.pth", iters=1, logdir=tmp_path / "runs")
    assert done.code == 2
    assert "--logdir needs tensorboard" in done.sentence
    assert "pip install 'retinanet[log]'" in done.sentence
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_sentence(train: Command, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "runs").write_text("")
    done = train(tmp_path / "model.pth", iters=1, logdir=tmp_path / "runs")
    assert done.code == 2
    assert "--logdir" in done.sentence


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_fills_up_is_one_sentence(
    train: Command, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard writes in a thread of its own, which raises what went wrong at some later call."""
    records = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    path, folder = tmp_path / "model.pth", tmp_path / "runs"
    write, written = records.write, itertools.count()

    def fill_up(writer: object, data: bytes) -> None:
        if next(written) > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, data)

    with monkeypatch.context() as patch:
        patch.setattr(records, "write", fill_up)
        done = train(path, iters=12, logdir=folder, **shapes.validation)
    assert done.code == 1
    assert f"Cannot write --logdir {folder} (No space left on device)" in done.sentence
    assert "same command" in done.sentence
    assert train(path, iters=12, logdir=folder, **shapes.validation).code == 0
