from __future__ import annotations

import os
import signal

import pytest
import torch
from step_cases import DATA

from command_line import Shapes
from retinanet.data.augment import Augment
from retinanet.data.coco import read_annotations
from retinanet.data.torch_loader import TorchLoader
from retinanet.train.assembly import training_plan
from retinanet.train.log import TrainLog
from retinanet.types import Batch


@pytest.fixture(scope="session")
def batches(shapes: Shapes) -> list[Batch]:
    """Four batches of four images, most of which have objects. Read only."""
    data = read_annotations(shapes.annotations, shapes.images)
    plan = training_plan(data, DATA, seed=0)
    loader = TorchLoader(data, plan, DATA.resize, DATA.longest, Augment(0.5), total_steps=8)
    return [batch for batch in loader if (batch.labels >= 0).any(dim=1).sum() > 2][:4]


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch):
    """Send this process a signal during a step, as Ctrl-C or a job scheduler would."""

    def arrange(step: int | None, number: signal.Signals = signal.SIGINT) -> None:
        def log_and_stop(log: TrainLog, done: int, *rest: object) -> None:
            take_in(log, done, *rest)
            torch.rand(1)  # as dropout would
            if done == step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(TrainLog, "step", log_and_stop)

    take_in = TrainLog.step
    return arrange
