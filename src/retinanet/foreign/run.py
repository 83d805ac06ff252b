"""`retinanet import`: from a foreign file to a checkpoint of ours."""

from __future__ import annotations

import sys
from pathlib import Path

from retinanet.config import ImportConfig
from retinanet.data.coco_columns import read_columns
from retinanet.errors import DataError, ModelError
from retinanet.files import require_writable
from retinanet.foreign.odtk import import_odtk, is_odtk
from retinanet.foreign.reading import Categories, read_foreign
from retinanet.foreign.torchvision import import_torchvision, is_torchvision
from retinanet.model.checkpoint import FORMAT, save_checkpoint
from retinanet.model.network import RetinaNet


def run_import(source: Path, model: Path, config: ImportConfig) -> None:
    """Write `model`, which detects as the foreign `source` does; what it knows of the classes goes to stderr.

    Raises `ModelError` when `source` is none of the known kinds, `DataError` when the annotations can't be used.
    """
    require_writable(model)
    content = read_foreign(source)
    network = _import(source, content, _categories(config.annotations), config)
    save_checkpoint(model, network=network, training_state=None)
    classes = network.record.classes
    some = ", ".join(f"{id_} {name}" for id_, name in list(zip(classes.ids, classes.names, strict=True))[:3])
    print(f"{model}: {len(classes)} classes ({some}{', …' if len(classes) > 3 else ''})", file=sys.stderr)


def _import(source: Path, content: dict, categories: Categories | None, config: ImportConfig) -> RetinaNet:
    if is_odtk(content):
        return import_odtk(source, content, categories, config.odtk_anchors)
    inner = content.get("model")  # torchvision's reference training keeps it there
    state = inner if isinstance(inner, dict) else content
    if is_torchvision(state):
        return import_torchvision(source, state, categories, config.norm_eps)
    if content.get("format") == FORMAT:
        raise ModelError(f"{source} is a checkpoint of this program already; use it as it is.")
    keys = ", ".join(map(str, list(state)[:3]))
    raise ModelError(
        f"{source} should be the state dict of torchvision's retinanet_resnet50_fpn or _v2, or a checkpoint of "
        f"NVIDIA's ODTK, but it has other keys ({keys}{', …' if len(state) > 3 else ''}); nothing else can be imported."
    )


def _categories(annotations: Path | None) -> Categories | None:
    if annotations is None:
        return None
    categories = read_columns(annotations).categories
    if not categories:
        raise DataError(f"{annotations} should define categories, but its list of them is empty; add them.")
    ids, names = zip(*categories, strict=True)
    if len(set(ids)) < len(ids):
        raise DataError(f"{annotations}: each category should have its own id, but some are repeated; renumber them.")
    return Categories(annotations, ids, names)
