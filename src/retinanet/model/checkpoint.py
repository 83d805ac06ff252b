"""A network on disk: its record, its weights and, where it may go on, the state of its training."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from retinanet.config import NormMode
from retinanet.errors import ModelError, UsageError
from retinanet.files import atomic_write
from retinanet.model.anchors import cell_anchors
from retinanet.model.backbone import describe_backbone
from retinanet.model.backbone_weights import NONE, PRETRAINED, load_backbone_weights
from retinanet.model.network import RetinaNet
from retinanet.model.record import ModelRecord
from retinanet.types import ClassMap

FORMAT = "retinanet checkpoint"
VERSION = 1
_OURS = "use a checkpoint that `retinanet train` wrote"


@dataclass(frozen=True)
class Checkpoint:
    """What a file held, on the CPU."""

    record: ModelRecord
    state_dict: dict[str, Tensor]
    training_state: dict[str, Any] | None


def save_checkpoint(path: str | os.PathLike[str], *, network: RetinaNet, training_state: dict[str, Any] | None) -> None:
    """Write the network, whole or not at all: whatever goes wrong, an older file at `path` stays as it was.

    `training_state` holds tensors and plain values only, for nothing else can be read back.
    Raises `RetinaNetError` when the disk is full and `UsageError` when `path` can't be written.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "record": network.record.to_dict(),
        "state_dict": network.state_dict(),
        "training_state": training_state,
    }
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what `save_checkpoint` wrote. Runs no code that a file may hold.

    Raises `ModelError` when the file is missing, truncated, not ours or from a newer version.
    """
    content = _read(Path(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(f"{path} holds something else than a model of this program; {_OURS}.")
    if content["version"] > VERSION:
        raise ModelError(
            f"{path} is a checkpoint of version {content['version']}, but this program reads up to {VERSION}; "
            "upgrade retinanet."
        )
    return Checkpoint(ModelRecord.from_dict(content["record"]), content["state_dict"], content["training_state"])


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"There is no checkpoint {path}; check its name, or make it with `retinanet train {path}`.")
    if not zipfile.is_zipfile(path):  # its directory comes last: a truncated file has none
        raise ModelError(f"{path} is truncated, or not a checkpoint at all; {_OURS}, or another copy of it.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} holds code or objects, which are never loaded; {_OURS}.") from error
    except Exception as error:  # a damaged archive fails in many ways
        raise ModelError(f"{path} is damaged ({type(error).__name__}); use another copy of it.") from error


def build_network(checkpoint: Checkpoint) -> RetinaNet:
    """The checkpoint's network with its weights.

    Raises `ModelError` when record and weights don't belong together, or when timm lacks the backbone.
    """
    try:
        network = RetinaNet(checkpoint.record)
    except (RuntimeError, KeyError) as error:
        names = ", ".join(backbone.name for backbone in checkpoint.record.backbones)
        raise ModelError(
            f"The model needs timm's {names}, which the installed timm {timm.__version__} does not make; upgrade timm "
            "or, if it is a backbone of your own, register it first."
        ) from error
    _require_fit(checkpoint.state_dict, network.state_dict())
    network.load_state_dict(checkpoint.state_dict)
    return network


def create_record(
    classes: ClassMap,
    backbones: Sequence[str],
    *,
    width: int,
    weights: str,
    anchor_scale: float,
    resize: int,
    max_size: int,
    norm: NormMode | None = None,
) -> ModelRecord:
    """The record of a new model.

    `backbones` are names of timm or aliases, `weights` as for `create_network` (batch norm is frozen unless they are
    `none`, or `norm` says otherwise), an anchor's smallest side is `anchor_scale` strides, sizes are in pixels. Raises
    `UsageError`.
    """
    norm = norm or ("live" if weights == NONE else "frozen")
    return ModelRecord(
        classes=classes,
        backbones=tuple(describe_backbone(name, norm) for name in backbones),
        cell_anchors=cell_anchors(anchor_scale),
        width=width,
        resize=resize,
        max_size=max_size,
    )


def create_network(record: ModelRecord, weights: str) -> RetinaNet:
    """A new network; its backbone has the weights `pretrained`, those of a file, or `none`: random ones.

    Raises `UsageError` and `ModelError` as `load_backbone_weights` does.
    """
    if len(record.backbones) > 1 and weights not in (PRETRAINED, NONE):
        raise UsageError(
            f"--weights {weights} can fill one backbone, but there are {len(record.backbones)}; "
            "give --weights pretrained or none."
        )
    network = RetinaNet(record)
    for backbone in network.members:
        load_backbone_weights(backbone, weights)
    return network


def fine_tune_state(old: Checkpoint, record: ModelRecord) -> dict[str, Tensor]:
    """The state dict of `record`'s network with all weights of `old`, whose classes may be others.

    What scores a class goes with the class's name; what scores a new one is freshly initialised. Raises `ModelError`
    when anything but the classes differs.
    """
    kept = build_network(old).state_dict()
    fresh = RetinaNet(record).state_dict()
    scores = {key: fresh[key] for key in ("class_head.predict.weight", "class_head.predict.bias")}
    _require_fit({**kept, **scores}, fresh)
    carried = {key: _carry_classes(kept[key], rows, old.record.classes, record.classes) for key, rows in scores.items()}
    return {**kept, **carried}


def _carry_classes(old: Tensor, fresh: Tensor, old_classes: ClassMap, classes: ClassMap) -> Tensor:
    """`fresh` `[A*C, ...]` with the rows of `old` `[A*C', ...]` for the names that both know."""
    known = [index for index, name in enumerate(classes.names) if name in old_classes.names]
    source = [old_classes.names.index(classes.names[index]) for index in known]
    rows = fresh.reshape(-1, len(classes), *fresh.shape[1:]).clone()  # [A, C, ...]
    rows[:, known] = old.reshape(-1, len(old_classes), *old.shape[1:])[:, source]
    return rows.flatten(0, 1)


def _require_fit(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise `ModelError` unless both have the same keys and shapes."""
    wrong = [key for key in expected if key not in state or state[key].shape != expected[key].shape]
    wrong += [key for key in state if key not in expected]
    if wrong:
        raise ModelError(
            f"The weights should be those of the network in the record, but {len(wrong)} of them differ "
            f"({', '.join(wrong[:3])}); use a checkpoint of the same architecture, or another copy of it."
        )
