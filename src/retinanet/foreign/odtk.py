"""Checkpoints of NVIDIA's retinanet-examples, the Object Detection Toolkit (ODTK): its layout, anchors and box coding.

ODTK's boxes are inclusive: a box from pixel x1 to pixel x2 is x2 - x1 + 1 wide. As continuous coordinates the same
box ends at x2 + 1, so that its anchors, its coding and its overlaps become ours exactly when 1 is added to the right
and lower edge of every anchor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from retinanet.errors import ModelError
from retinanet.foreign.coco import COCO_CLASSES
from retinanet.foreign.reading import Categories, fill
from retinanet.model.anchors import CellAnchors
from retinanet.model.backbone import ALIASES
from retinanet.model.network import RetinaNet
from retinanet.model.record import BackboneRecord, MatchingRecord, ModelRecord
from retinanet.types import ClassMap

OdtkAnchors = Literal["exact", "rounded"]
STRIDES = (8, 16, 32, 64, 128)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BACKBONES = {**ALIASES, "ResNeXt101_32x8dFPN": "resnext101_32x8d"}
_MOBILENET_STAGES = (1, 2, 3, 4, 3, 3, 1)
"""Blocks of MobileNetV2's stages, which torchvision numbers through (Sandler et al. 2018, table 2)."""
_FIRST_BLOCK = {"conv.0.0": "conv_dw", "conv.0.1": "bn1", "conv.1": "conv_pw", "conv.2": "bn2"}
_BLOCK = {
    **{"conv.0.0": "conv_pw", "conv.0.1": "bn1", "conv.1.0": "conv_dw", "conv.1.1": "bn2"},
    **{"conv.2": "conv_pwl", "conv.3": "bn3"},
}
_HEAD_LAYERS = {"0": "tower.0.0", "2": "tower.1.0", "4": "tower.2.0", "6": "tower.3.0", "8": "predict"}
_HEADS = {"cls_head": "class_head", "box_head": "box_head"}


def is_odtk(content: Mapping[str, Any]) -> bool:
    """Whether this is a checkpoint as ODTK saves it."""
    kinds: dict[str, Any] = {
        "classes": int,
        "state_dict": dict,
        "ratios": list,
        "scales": list,
        "backbone": (str, list),
    }
    return all(isinstance(content.get(key), kind) for key, kind in kinds.items())


def import_odtk(
    path: Path, content: Mapping[str, Any], categories: Categories | None, anchors: OdtkAnchors
) -> RetinaNet:
    """Our network for ODTK's checkpoint `content` of `path`. Raises `ModelError`."""
    state: Mapping[str, Tensor] = content["state_dict"]
    names = [content["backbone"]] if isinstance(content["backbone"], str) else list(content["backbone"])
    unknown = [name for name in names if name not in _BACKBONES]
    if unknown or not names:
        raise ModelError(
            f"{path} should have a backbone of {', '.join(_BACKBONES)}, but it has {', '.join(unknown) or 'none'}; "
            "it can't be imported."
        )
    if "angles" in content:
        raise ModelError(f"{path} finds rotated boxes, which this program does not; train one for upright boxes.")
    count, per_cell = content["classes"], len(content["ratios"]) * len(content["scales"])
    for head, rows in (("cls_head", count * per_cell), ("box_head", 4 * per_cell)):
        bias = state.get(f"{head}.8.bias")
        if bias is None or len(bias) != rows:
            raise ModelError(
                f"{path} says that it has {count} classes and {per_cell} anchors a cell, so its {head} should have "
                f"{rows} rows, but it has {0 if bias is None else len(bias)}; use another copy of it."
            )
    record = ModelRecord(
        classes=_classes(path, count, categories),
        backbones=tuple(BackboneRecord(_BACKBONES[name], _MEAN, _STD, "frozen", 1e-5) for name in names),
        cell_anchors=odtk_anchors(content["ratios"], content["scales"], anchors),
        centre_offset=0.0,
        p6_source="c5",
        matching=MatchingRecord(low_quality=False),
        resize=800,
        max_size=1333,
    )
    return fill(path, record, _rename(state, names), "an ODTK model")


def odtk_anchors(ratios: Sequence[float], scales: Sequence[float], kind: OdtkAnchors) -> CellAnchors:
    """Continuous boxes around (0, 0), the top left corner of a cell, for each stride, in ODTK's order: scales, ratios.

    `exact` since ODTK 0.2.1 (March 2020): sides are not whole numbers, and centres lie half a pixel right and below of
    the cell's. `rounded`, before it: the sides of the smallest scale are rounded, centres are the cell's.
    """
    levels = []
    for stride in STRIDES:
        ratio = torch.tensor(ratios, dtype=torch.float32)
        width = torch.sqrt(float(stride) * float(stride) / ratio)
        size = torch.stack([width, width * ratio], dim=1)  # [R, 2]
        if kind == "rounded":
            width = width.round()
            size = torch.stack([width, (width * ratio).round()], dim=1)
        sizes = (torch.tensor(scales, dtype=torch.float32)[:, None, None] * size).flatten(0, 1)  # [S * R, 2]
        first, last = 0.5 * (stride - sizes), 0.5 * (stride + sizes)
        end = last if kind == "rounded" else last + 1  # rounded ones end at last - 1, inclusive
        levels.append(tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in torch.cat([first, end], dim=1).tolist()))
    return tuple(levels)


def _classes(path: Path, count: int, categories: Categories | None) -> ClassMap:
    """ODTK numbers the categories in the order of the annotation file."""
    if categories is not None:
        if len(categories.ids) != count:
            raise ModelError(
                f"{path} scores {count} classes, but {categories.source} has {len(categories.ids)} categories; "
                "give the annotations it was trained on."
            )
        return ClassMap(categories.ids, categories.names)
    if count == len(COCO_CLASSES):
        return COCO_CLASSES
    return ClassMap(tuple(range(count)), tuple(f"class {index}" for index in range(count)))


def _rename(state: Mapping[str, Tensor], backbones: Sequence[str]) -> dict[str, Tensor]:
    """The weights under our names, without those that a detector does not use."""
    renamed = {}
    for name, value in state.items():
        head, _, rest = name.partition(".")
        if head == "backbones":
            backbone, _, rest = rest.partition(".")
            new = _rename_backbone(rest, backbones.index(backbone)) if backbone in backbones else name
        elif head in _HEADS:
            index, _, kind = rest.partition(".")
            new = f"{_HEADS[head]}.{_HEAD_LAYERS.get(index, index)}.{kind}"
        else:
            new = name
        if new is not None:
            renamed[new] = value
    return renamed


def _rename_backbone(name: str, index: int) -> str | None:
    """Our name of a weight of backbone `index`; None for the classifier that it was pretrained with."""
    for pattern, place in (("lateral", "lateral"), ("smooth", "output")):
        if found := re.fullmatch(rf"{pattern}([345])\.(\w+)", name):
            return f"pyramids.{index}.{place}.{int(found[1]) - 3}.{found[2]}"
    if found := re.fullmatch(r"pyramid([67])\.(\w+)", name):
        return f"pyramids.{index}.p{found[1]}.{found[2]}"
    name = name.removeprefix("features.")
    if name.startswith(("fc.", "classifier.", "features.18.")):
        return None
    return f"backbones.{index}.body.{_rename_mobilenet(name) if name.startswith('features.') else name}"


def _rename_mobilenet(name: str) -> str:
    """timm's name of a weight of torchvision's MobileNetV2."""
    _, number, rest = name.split(".", 2)
    layer, _, kind = rest.rpartition(".")
    if number == "0":
        return f"{'conv_stem' if layer == '0' else 'bn1'}.{kind}"
    stage, block = 0, int(number) - 1
    while block >= _MOBILENET_STAGES[stage]:
        block -= _MOBILENET_STAGES[stage]
        stage += 1
    return f"blocks.{stage}.{block}.{(_FIRST_BLOCK if number == '1' else _BLOCK).get(layer, layer)}.{kind}"
