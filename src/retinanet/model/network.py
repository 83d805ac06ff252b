"""RetinaNet (Lin et al. 2017, "Focal Loss for Dense Object Detection"): from images to what its heads say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from retinanet.model.anchors import grid_anchors
from retinanet.model.backbone import Backbone
from retinanet.model.fpn import FPN
from retinanet.model.heads import PRIOR, Head
from retinanet.model.record import ModelRecord
from retinanet.types import HeadOutputs


class RetinaNet(nn.Module):
    """The network of a record, randomly initialised. Training, prediction and export wrap it.

    An ensemble's members each have a backbone and a pyramid; the heads are shared.
    """

    cell_anchors: Tensor
    """float32 `[L, A, 4]` whatever the network's precision, one row per level of the outputs."""

    def __init__(self, record: ModelRecord) -> None:
        super().__init__()
        self.record = record
        backbones = [Backbone(backbone) for backbone in record.backbones]
        self.backbones = nn.ModuleList(backbones)
        self.pyramids = nn.ModuleList(FPN(backbone.channels, record.width, record.p6_source) for backbone in backbones)
        anchors = len(record.cell_anchors[0])
        self.class_head = Head(record.width, anchors * len(record.classes), record.head_norm, PRIOR)
        self.box_head = Head(record.width, anchors * 4, record.head_norm)
        self.register_buffer("cell_anchors", self._record_anchors(), persistent=False)

    def forward(self, images: Tensor, image_sizes: Tensor) -> HeadOutputs:
        """What the heads say about uint8 images `[N, 3, H, W]`, 0…255, of `image_sizes` `[N, 2]` (height, width)."""
        pyramid: list[Tensor] = []
        for backbone, fpn in zip(self.backbones, self.pyramids, strict=True):
            pyramid += fpn(backbone(images, image_sizes))
        canvas = (images.shape[-2], images.shape[-1])
        nominal = self.record.strides * len(self.backbones)
        strides = tuple(
            self.stride(stride, canvas, (feature.shape[-2], feature.shape[-1]))
            for stride, feature in zip(nominal, pyramid, strict=True)
        )
        return HeadOutputs(*self.run_heads(pyramid), strides)

    def run_heads(self, pyramid: list[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Class logits and box deltas of each level of the pyramid. A runtime may have a faster way."""
        return self.class_head(pyramid), self.box_head(pyramid)

    @property
    def members(self) -> list[Backbone]:
        """The backbones, as what they are."""
        return cast(list[Backbone], list(self.backbones))

    def anchors(self, outputs: HeadOutputs) -> Tensor:
        """All anchors `[M, 4]` behind `outputs`, on the canvas, level by level in (row, column, anchor) order."""
        levels = zip(self.cell_anchors, outputs.deltas, outputs.strides, strict=True)
        return torch.cat(
            [
                grid_anchors(cell, (deltas.shape[-2], deltas.shape[-1]), stride, self.record.centre_offset)
                for cell, deltas, stride in levels
            ]
        )

    def stride(self, nominal: int, canvas: tuple[int, int], grid: tuple[int, int]) -> tuple[float, float]:
        """Pixels (vertical, horizontal) between cells of a `grid` (rows, columns) on a `canvas` (height, width)."""
        if self.record.stride_rule == "nominal":
            return float(nominal), float(nominal)
        return float(canvas[0] // grid[0]), float(canvas[1] // grid[1])

    def _record_anchors(self) -> Tensor:
        return torch.tensor(self.record.cell_anchors, dtype=torch.float32).repeat(len(self.record.backbones), 1, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # `.half()` must not round the anchors: a box of 500 pixels would move by a quarter.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.cell_anchors = self._record_anchors().to(self.cell_anchors.device)
        return self
