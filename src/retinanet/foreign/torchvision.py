"""torchvision's `retinanet_resnet50_fpn` (36.4 AP on COCO) and `retinanet_resnet50_fpn_v2` (41.5), from state dicts.

The two differ in what P6 is made from, in the heads' group norm and in the box loss; the weights say which it is.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

from retinanet.errors import ModelError
from retinanet.foreign.coco import COCO_CLASSES, COCO_IDS
from retinanet.foreign.reading import Categories, fill
from retinanet.model.anchors import CellAnchors
from retinanet.model.network import RetinaNet
from retinanet.model.record import BackboneRecord, ModelRecord
from retinanet.types import ClassMap

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COCO_V1_SHA256 = "eeacb38b"
"""How the hash of the published `retinanet_resnet50_fpn_coco-eeacb38b.pth` begins."""
_CLASS_KEYS = ("head.classification_head.cls_logits.weight", "head.classification_head.cls_logits.bias")
_BOX_KEY = "head.regression_head.bbox_reg.bias"
_RENAMED = (
    (r"backbone\.body\.", "backbones.0.body."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?", r"pyramids.0.lateral.\1."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?", r"pyramids.0.output.\1."),
    (r"backbone\.fpn\.extra_blocks\.", "pyramids.0."),
    # Up to torchvision 0.12 convolutions and ReLUs stood in one row: 0, 2, 4 and 6 are the convolutions.
    (r"head\.classification_head\.conv\.([0246])\.(?=weight|bias)", lambda m: f"class_head.tower.{int(m[1]) // 2}.0."),
    (r"head\.regression_head\.conv\.([0246])\.(?=weight|bias)", lambda m: f"box_head.tower.{int(m[1]) // 2}.0."),
    (r"head\.classification_head\.conv\.", "class_head.tower."),
    (r"head\.classification_head\.cls_logits\.", "class_head.predict."),
    (r"head\.regression_head\.conv\.", "box_head.tower."),
    (r"head\.regression_head\.bbox_reg\.", "box_head.predict."),
)


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision RetinaNet's state dict under our names."""
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in _RENAMED:
            name, found = re.subn(f"^{pattern}", replacement, name)
            if found:
                break
        renamed[name] = value
    return renamed


def is_torchvision(state: Mapping[str, object]) -> bool:
    """Whether these are the weights of a RetinaNet of torchvision."""
    return all(isinstance(state.get(key), Tensor) for key in (*_CLASS_KEYS, _BOX_KEY))


def import_torchvision(
    path: Path, state: Mapping[str, Tensor], categories: Categories | None, norm_eps: float | None
) -> RetinaNet:
    """Our network for the state dict of `path`; classes that name nothing are left out of its head.

    `norm_eps` None means 0 for the very file that torchvision publishes as the first model's COCO_V1, whose weights
    were made for it, and 1e-5 for all else. Raises `ModelError`.
    """
    rows, classes = _classes(path, state, categories)
    renamed = rename({**state, **{key: _select(state[key], rows) for key in _CLASS_KEYS}})
    if norm_eps is None:
        norm_eps = _norm_eps(path, state)
    p6 = renamed.get("pyramids.0.p6.weight")
    grouped = "class_head.tower.0.1.weight" in renamed
    record = ModelRecord(
        classes=classes,
        backbones=(BackboneRecord("resnet50", IMAGENET_MEAN, IMAGENET_STD, "frozen", norm_eps),),
        cell_anchors=_cell_anchors(),
        centre_offset=0.0,
        stride_rule="grid",
        p6_source="c5" if p6 is not None and p6.shape[1] == 2048 else "p5",
        head_norm="group" if grouped else "none",
        box_loss="giou" if grouped else "smooth_l1",
        resize=800,
        max_size=1333,
    )
    return fill(path, record, renamed, "torchvision's retinanet_resnet50_fpn or retinanet_resnet50_fpn_v2")


def _classes(
    path: Path, state: Mapping[str, Tensor], categories: Categories | None
) -> tuple[list[tuple[int, ...]], ClassMap]:
    """Per anchor the rows of the class head to keep, and what they mean.

    torchvision's labels are the category ids themselves, so that rows of ids that don't exist were never taught.
    """
    anchors, odd = divmod(len(state[_BOX_KEY]), 4)
    if odd or anchors != len(_cell_anchors()[0]):
        raise ModelError(
            f"{path} should have 9 anchors a cell, but its box head has {len(state[_BOX_KEY])} rows in place of 36: "
            "its anchors are its own, and a state dict does not say which; it can't be imported."
        )
    count, odd = divmod(len(state[_CLASS_KEYS[1]]), anchors)
    if odd or not count:
        raise ModelError(
            f"{path} should have the scores of each class for {anchors} anchors, but its class head has "
            f"{len(state[_CLASS_KEYS[1]])} rows; use another copy of it."
        )
    if categories is not None:
        if max(categories.ids) >= count or min(categories.ids) < 0:
            raise ModelError(
                f"{path} scores {count} classes, so that category ids are at most {count - 1}, but {categories.source} "
                f"has ids from {min(categories.ids)} to {max(categories.ids)}; give the annotations it was trained on."
            )
        ids, names = zip(*sorted(zip(categories.ids, categories.names, strict=True)), strict=True)
        classes = ClassMap(ids, names)
    elif count == COCO_IDS:
        classes = COCO_CLASSES
    else:
        classes = ClassMap(tuple(range(count)), tuple(f"class {index}" for index in range(count)))
    return [tuple(anchor * count + id_ for id_ in classes.ids) for anchor in range(anchors)], classes


def _select(rows: Tensor, kept: list[tuple[int, ...]]) -> Tensor:
    return rows[[row for of_anchor in kept for row in of_anchor]]


def _norm_eps(path: Path, state: Mapping[str, Tensor]) -> float:
    """What batch norm was computed with: a state dict does not say."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest().startswith(COCO_V1_SHA256):
            return 0.0
    if not any(key.endswith("num_batches_tracked") for key in state):
        print(
            f"{path} has frozen batch norm, taken to have an epsilon of 1e-5; if it was fine-tuned from torchvision's "
            "COCO_V1 weights of retinanet_resnet50_fpn, give --norm-eps 0.",
            file=sys.stderr,
        )
    return 1e-5


def _cell_anchors() -> CellAnchors:
    """torchvision's default anchors, rounded to whole pixels as it rounds them."""
    sizes = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in (32, 64, 128, 256, 512))
    levels = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)).cell_anchors
    return tuple(tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in level.tolist()) for level in levels)
