"""Where a run begins: a new model, a fine-tuned one, or the checkpoint of a run that stopped."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from retinanet.config import DataConfig, ModelConfig, TrainConfig
from retinanet.errors import ModelError, UsageError
from retinanet.model.checkpoint import (
    Checkpoint,
    build_network,
    create_network,
    fine_tune_state,
    load_checkpoint,
)
from retinanet.model.network import RetinaNet
from retinanet.train.distributed import Tally, world_size
from retinanet.train.freezing import freeze_stages
from retinanet.train.records import fine_tuned_record, new_record
from retinanet.train.restart import saved_since_torchrun_began
from retinanet.train.session import Session
from retinanet.types import ClassMap
from retinanet.words import counted

_OPTION_OF = {
    **{"backbones": "--backbone, --weights or --norm", "width": "--width", "cell_anchors": "--anchor-scale"},
    **{"resize": "--resize", "max_size": "--max-size"},
    **{"matching": "--matching", "box_loss": "--box-loss", "class_loss": "--class-loss"},
}
"""Which option decides a field of a new model's record; other fields differ only in what was fine-tuned."""


def open_session(path: Path, classes: ClassMap, model: ModelConfig, data: DataConfig, train: TrainConfig) -> Session:
    """Resume `path` where it exists (unless `--override`), else make a new model.

    Raises:
        UsageError: the options describe another model than the one at `path`.
        ModelError: `path` is no checkpoint of ours, or was made for other classes.
    """
    torch.manual_seed(train.seed)
    # --override replaces what was there when the command was given, not what this run has saved since. A machine that
    # joined later cannot tell, but those that were there can.
    own = Tally("whose checkpoint it is", int(saved_since_torchrun_began(path))).read()[0] > 0
    if path.exists() and (own or not train.override):
        return _resume(path, classes, model, data, train)
    if model.fine_tune is not None:
        network = _fine_tuned(load_checkpoint(model.fine_tune), classes, model, data, train)
    else:
        network = create_network(new_record(classes, model, data, train), model.weights)
    return Session(path, network, _settings(network, model, data, train))


def tell_other_devices(session: Session, batch: int) -> str | None:
    """What it means that the checkpoint was written by a run on another number of devices; None if it was not."""
    before, now = (session.resumed or {}).get("devices", 1), world_size()
    if session.resumed is None or before == now:
        return None
    return (
        f"{session.path} was trained on {counted(before, 'device')}, and goes on with {now}: batches, their order and "
        f"the learning rate stay as they were; a device takes {counted(-(-batch // now), 'image')} of a batch in place "
        f"of {-(-batch // before)}, and sums are rounded in another order."
    )


def _settings(network: RetinaNet, model: ModelConfig, data: DataConfig, train: TrainConfig) -> dict[str, Any]:
    return {
        **{"--batch": data.batch, "--optimizer": train.chosen.optimizer, "--ema": train.ema},
        "--freeze": freeze_stages(network, model),
    }


def _fine_tuned(
    old: Checkpoint, classes: ClassMap, model: ModelConfig, data: DataConfig, train: TrainConfig
) -> RetinaNet:
    """The old model's architecture and weights, with this data's classes and sizes."""
    record = fine_tuned_record(old.record, classes, model, data, train)
    network = RetinaNet(record)
    network.load_state_dict(fine_tune_state(old, record))
    return network


def _resume(path: Path, classes: ClassMap, model: ModelConfig, data: DataConfig, train: TrainConfig) -> Session:
    checkpoint = load_checkpoint(path)
    state, found = checkpoint.training_state, checkpoint.record
    if state is None:
        raise UsageError(
            f"{path} holds weights alone, without the state of a training to resume: "
            f"train a new file with --fine-tune {path}, or give --override to replace it."
        )
    if found.classes != classes:
        raise ModelError(
            f"{path} was trained for other classes ({_summary(found.classes)}) than the annotations hold "
            f"({_summary(classes)}): train a new file with --fine-tune {path}, or give --override to replace it."
        )
    if model.fine_tune is None:
        asked = new_record(classes, model, data, train)
    else:  # the architecture came from elsewhere
        asked = fine_tuned_record(found, classes, model, data, train)
    network = build_network(checkpoint)
    settings = _settings(network, model, data, train)
    differ = [field.name for field in fields(found) if getattr(found, field.name) != getattr(asked, field.name)]
    others = [_OPTION_OF.get(name, "--fine-tune") for name in differ]
    others += [option for option, value in settings.items() if state["settings"].get(option) != value]
    if others:
        raise UsageError(
            f"{path} was trained with another {' and '.join(others)}: repeat the options of its first command to go "
            "on, or give --override to replace it."
        )
    return Session(
        path,
        network,
        settings,
        step=state["step"],
        best=state["best"],
        stale=state.get("stale", 0),
        validation_due=state.get("validation_due", False),
        resumed=state,
    )


def _summary(classes: ClassMap) -> str:
    names = ", ".join(classes.names[:5])
    return f"{len(classes)}: {names}{', …' if len(classes) > 5 else ''}"
