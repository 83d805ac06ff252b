"""How long a run is where nobody says: enough steps, however few the images."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Command, checkpoint
from retinanet.config import TrainConfig
from retinanet.train import length
from retinanet.train.length import choose_epochs


@pytest.mark.parametrize(
    ("steps_per_epoch", "new", "fine_tuned"), [(7392, 12, 12), (84, 12, 12), (83, 13, 12), (13, 77, 24), (1, 1000, 300)]
)
def test_few_images_are_seen_more_often(steps_per_epoch: int, new: int, fine_tuned: int) -> None:
    assert choose_epochs(TrainConfig(), steps_per_epoch, fine_tuned=False) == new
    assert choose_epochs(TrainConfig(), steps_per_epoch, fine_tuned=True) == fine_tuned
    assert choose_epochs(TrainConfig(epochs=3), steps_per_epoch, fine_tuned=True) == 3


def test_a_run_takes_them(train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """18 images of two canvases in batches of 4 are 6 steps an epoch."""
    monkeypatch.setattr(length, "EPOCHS", 1)
    monkeypatch.setattr(length, "STEPS", 7)
    monkeypatch.setattr(length, "FINE_TUNING_STEPS", 6)
    new, tuned = tmp_path / "new.pth", tmp_path / "tuned.pth"
    assert train(new).code == 0
    assert train(tuned, backbone=None, width=None, weights=None, fine_tune=new).code == 0
    assert [checkpoint(path)["training_state"]["step"] for path in (new, tuned)] == [12, 6]
