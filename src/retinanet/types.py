"""The values that travel between the rooms: a batch, the heads' outputs, detections, and the class map.

Boxes are float32 (x1, y1, x2, y2) in pixels, continuous coordinates, origin at the image's top left corner;
their conventions live in `boxes.py`. N images, L pyramid levels, A anchors a cell, C classes, K target slots,
D detections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from retinanet import extras

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NO_LABEL = -1


class Batch(NamedTuple):
    """Images on one canvas with their targets. Every loader yields exactly this.

    A slot with no image (a broken file, or the filling of a last batch) is *blank*: `image_sizes` is (0, 0) and
    `image_ids` is -1. Training ignores all of its anchors, prediction drops its result.
    """

    images: Tensor
    """uint8 `[N, 3, H, W]`, RGB, 0…255, channels-last in memory, zero outside the picture."""
    image_sizes: Tensor
    """int64 `[N, 2]`, (height, width) of the picture, which sits at the canvas's top left corner."""
    boxes: Tensor
    """float32 `[N, K, 4]` on the canvas; zero where there is none."""
    labels: Tensor
    """int64 `[N, K]`, class index 0…C-1; -1 where there is no box."""
    crowd: Tensor
    """bool `[N, K]`, true for a box around a group: never positive, its anchors are ignored."""
    image_ids: Tensor
    """int64 `[N]`, ids of the annotation file. They stay on the CPU: who counts images must not wait for a GPU."""
    transforms: Tensor
    """float32 `[N, 4]`, (sx, sy, ox, oy): canvas = original * (sx, sy) + (ox, oy)."""

    def to(self, device: torch.device) -> Batch:
        """This batch on `device`, but for its ids; the copy does not wait when the batch lies in pinned memory."""
        stays = self.image_ids
        return Batch(*(tensor if tensor is stays else tensor.to(device, non_blocking=True) for tensor in self))

    def split(self, parts: int) -> list[Batch]:
        """This batch in `parts` of equally many neighbouring images, the last of fewer where they don't divide."""
        return [Batch(*part) for part in zip(*(tensor.chunk(parts) for tensor in self), strict=True)]


class HeadOutputs(NamedTuple):
    """What the network says, per pyramid level, finest first (an ensemble: all levels of each member in turn)."""

    logits: tuple[Tensor, ...]
    """L tensors `[N, A*C, H, W]`; channel a*C + c scores class c at anchor a."""
    deltas: tuple[Tensor, ...]
    """L tensors `[N, A*4, H, W]`; channels a*4 … a*4+3 are (dx, dy, dw, dh) of anchor a."""
    strides: tuple[tuple[float, float], ...]
    """L pairs (vertical, horizontal): pixels of the canvas between neighbouring cells."""


class Detections(NamedTuple):
    """The D best detections of each image, scores descending; unused rows have score 0, box 0 and label -1."""

    scores: Tensor
    """float32 `[N, D]`, 0…1."""
    boxes: Tensor
    """float32 `[N, D, 4]`: on the canvas as the operators return them, in original pixels as a predictor does."""
    labels: Tensor
    """int64 `[N, D]`, class index; `ClassMap` turns it into a category id and a name."""
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    """int64 `[N]`, how many rows are used."""

    def to_supervision(self, classes: ClassMap, image: int = 0) -> Any:
        """The used rows of one image as a `supervision.Detections` (https://supervision.roboflow.com).

        `class_id` is the class index, 0…C-1; `data` holds the names as `class_name`, where the library's annotators
        look for them, and the category ids as `category_id`. Raises `UsageError` where the package is missing.
        """
        supervision = extras.require("supervision", "supervision", "to_supervision()")
        used = slice(int(self.count[image]))
        scores, boxes, labels = (column[image, used].cpu().numpy() for column in self[:3])
        data = {
            "class_name": [classes.names[label] for label in labels],
            "category_id": [classes.ids[label] for label in labels],
        }
        return supervision.Detections(xyxy=boxes, confidence=scores, class_id=labels, data=data)


@dataclass(frozen=True)
class ClassMap:
    """The one map between class index (0…C-1, the position), category id and name.

    It is made from the annotations, stored in the checkpoint and in every artifact, and applied to every result.
    Ids need not be contiguous.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.names) > 0
        assert len(set(self.ids)) == len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def index_of_id(self) -> dict[int, int]:
        """Category id → class index."""
        return {category_id: index for index, category_id in enumerate(self.ids)}
