"""The losses of a batch, by the rules of the network's record."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.model.atss import match_adaptively
from retinanet.model.compiling import compiled
from retinanet.model.losses import box_loss, box_quality, by_anchor, class_loss, quality_loss
from retinanet.model.matcher import match
from retinanet.model.network import RetinaNet
from retinanet.types import Batch, HeadOutputs


class LossSums(NamedTuple):
    """Sums, so that the caller divides once by the positives of all ranks and accumulated batches (at least 1)."""

    classification: Tensor
    """float32 scalar."""
    box: Tensor
    """float32 scalar."""
    positives: Tensor
    """int64 scalar, how many anchors are positive."""


class Criterion:
    """Judges what a network's heads say against a batch's boxes, with the network's own anchors and rules.

    With `compile` its pointwise parts are compiled (the focal loss has kernels of its own).
    """

    def __init__(self, network: RetinaNet, *, compile: bool = False) -> None:
        self.network = network
        self.compile = compile

    def __call__(self, outputs: HeadOutputs, batch: Batch) -> LossSums:
        """The losses of `outputs`, differentiable. Shapes are fixed: the device is never waited for."""
        record = self.network.record
        anchors = self.network.anchors(outputs)
        matched, labels = self.match(anchors, outputs, batch)
        targets = batch.boxes.gather(1, matched[..., None].expand(-1, -1, 4))  # [N, M, 4]
        deltas = torch.cat([by_anchor(level, 4) for level in outputs.deltas], dim=1).float()  # [N, M, 4]
        positive = labels >= 0
        if record.class_loss == "quality":
            quality = box_quality(deltas, anchors, targets, positive)
            classification = quality_loss(outputs.logits, labels, quality, len(record.classes))
        else:
            classification = class_loss(outputs.logits, labels, len(record.classes))
        of_boxes = compiled(box_loss) if self.compile else box_loss
        return LossSums(classification, of_boxes(deltas, anchors, targets, positive, record.box_loss), positive.sum())

    def match(self, anchors: Tensor, outputs: HeadOutputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """Box and label of each of `anchors`, by the record's rule."""
        targets, matching = (batch.boxes, batch.labels, batch.crowd, batch.image_sizes), self.network.record.matching
        if matching.kind == "iou":
            return match(anchors, *targets, matching, compile=self.compile)
        return match_adaptively(anchors, [level.shape[-2] * level.shape[-1] for level in outputs.deltas], *targets)
