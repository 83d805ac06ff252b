"""Where a run begins: a new model, a fine-tuned one, or the checkpoint of a run that stopped."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from retinanet.config import DataConfig, ModelConfig, TrainConfig
from retinanet.errors import ModelError, UsageError
from retinanet.model.checkpoint import (
    Checkpoint,
    build_network,
    create_network,
    create_record,
    fine_tune_state,
    load_checkpoint,
    save_checkpoint,
)
from retinanet.model.network import RetinaNet
from retinanet.model.record import ModelRecord
from retinanet.train.step import TrainStep
from retinanet.types import ClassMap


@dataclass
class Session:
    """A network and how far it has come."""

    path: Path
    network: RetinaNet
    step: int = 0
    """Steps done."""
    best: float | None = None
    """Best AP so far."""
    resumed: dict[str, Any] | None = None
    """Training state of the checkpoint that the run goes on from."""

    @property
    def best_path(self) -> Path:
        """Where the best validated weights are kept: model.pth → model.best.pth."""
        return self.path.with_name(f"{self.path.stem}.best{self.path.suffix}")

    def save(self, step: TrainStep) -> None:
        """Write everything that the run needs to go on as if it had not stopped."""
        state = {
            "step": self.step,
            "best": self.best,
            "optimizer": step.optimizer.state_dict(),
            "scaler": step.scaler.state_dict(),
            "rng": torch.get_rng_state(),
        }
        save_checkpoint(self.path, network=self.network, training_state=state)

    def restore(self, step: TrainStep) -> None:
        """Bring optimiser, scaler and random numbers to where the checkpoint left them."""
        if self.resumed is None:
            return
        step.optimizer.load_state_dict(self.resumed["optimizer"])
        step.scaler.load_state_dict(self.resumed["scaler"])
        torch.set_rng_state(self.resumed["rng"])
        self.resumed = None  # the tensors were copied: give their memory back

    def save_best(self, ap: float) -> bool:
        """Keep the weights beside the checkpoint if `ap` is the best so far; say whether it was."""
        if self.best is not None and ap <= self.best:
            return False
        self.best = ap
        save_checkpoint(self.best_path, network=self.network, training_state=None)
        return True


def open_session(path: Path, classes: ClassMap, model: ModelConfig, data: DataConfig, train: TrainConfig) -> Session:
    """Resume `path` where it exists (unless `--override`), else make a new model.

    Raises:
        UsageError: the options describe another model than the one at `path`.
        ModelError: `path` is no checkpoint of ours, or was made for other classes.
    """
    torch.manual_seed(train.seed)
    if path.exists() and not train.override:
        return _resume(path, classes, model, data)
    if model.fine_tune is not None:
        return Session(path, _fine_tuned(load_checkpoint(model.fine_tune), classes, data))
    return Session(path, create_network(_new_record(classes, model, data), model.weights))


def _new_record(classes: ClassMap, model: ModelConfig, data: DataConfig) -> ModelRecord:
    return create_record(
        classes,
        model.backbone,
        width=model.width,
        weights=model.weights,
        anchor_scale=model.anchor_scale,
        resize=data.resize,
        max_size=data.longest,
    )


def _fine_tuned(old: Checkpoint, classes: ClassMap, data: DataConfig) -> RetinaNet:
    """The old model's architecture and weights, with this data's classes and sizes."""
    record = replace(old.record, classes=classes, resize=data.resize, max_size=data.longest)
    network = RetinaNet(record)
    network.load_state_dict(fine_tune_state(old, record))
    return network


def _resume(path: Path, classes: ClassMap, model: ModelConfig, data: DataConfig) -> Session:
    checkpoint = load_checkpoint(path)
    state = checkpoint.training_state
    if state is None:
        raise UsageError(
            f"{path} holds weights alone, without the state of a training to resume: "
            f"train a new file with --fine-tune {path}, or give --override to replace it."
        )
    if checkpoint.record.classes != classes:
        raise ModelError(
            f"{path} was trained for other classes ({_summary(checkpoint.record.classes)}) than the annotations hold "
            f"({_summary(classes)}): train a new file with --fine-tune {path}, or give --override to replace it."
        )
    if model.fine_tune is None:  # a fine-tuned model has its architecture from elsewhere
        _require_same_settings(path, checkpoint.record, _new_record(classes, model, data))
    return Session(path, build_network(checkpoint), step=state["step"], best=state["best"], resumed=state)


def _require_same_settings(path: Path, found: ModelRecord, asked: ModelRecord) -> None:
    other = [field.name for field in fields(ModelRecord) if getattr(found, field.name) != getattr(asked, field.name)]
    if other:
        raise UsageError(
            f"{path} was trained with another {' and '.join(other)} than the options give: repeat the options of its "
            "first command to resume it, or give --override to replace it."
        )


def _summary(classes: ClassMap) -> str:
    names = ", ".join(classes.names[:5])
    return f"{len(classes)}: {names}{', …' if len(classes) > 5 else ''}"
