"""The losses of a batch: focal loss of the classes, smooth L1 or GIoU of the boxes (Lin et al. 2017, section 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from retinanet.boxes import decode, encode, giou
from retinanet.model.compiling import compiled
from retinanet.model.matcher import match
from retinanet.model.network import RetinaNet
from retinanet.model.record import BoxLoss
from retinanet.ops.focal_loss import focal_loss
from retinanet.types import Batch, HeadOutputs

SMOOTH_L1_BETA = 0.11
"""Where smooth L1 turns from square to line (Detectron's value for RetinaNet)."""


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
        matched, labels = match(
            anchors, batch.boxes, batch.labels, batch.crowd, batch.image_sizes, record.matching, compile=self.compile
        )
        targets = batch.boxes.gather(1, matched[..., None].expand(-1, -1, 4))  # [N, M, 4]
        deltas = torch.cat([_by_anchor(level, 4) for level in outputs.deltas], dim=1)  # [N, M, 4]
        positive = labels >= 0
        of_boxes = compiled(box_loss) if self.compile else box_loss
        return LossSums(
            class_loss(outputs.logits, labels, len(record.classes)),
            of_boxes(deltas.float(), anchors, targets, positive, record.box_loss),
            positive.sum(),
        )


def class_loss(logits: tuple[Tensor, ...], labels: Tensor, classes: int) -> Tensor:
    """Sum of the focal loss over levels; `labels` `[N, M]` as `match` gives them."""
    by_level = [_by_anchor(level, classes) for level in logits]
    parts = torch.split(labels, [level.shape[1] for level in by_level], dim=1)
    return torch.stack([focal_loss(level, part) for level, part in zip(by_level, parts, strict=True)]).sum()


def box_loss(deltas: Tensor, anchors: Tensor, targets: Tensor, positive: Tensor, kind: BoxLoss) -> Tensor:
    """Sum over positive anchors: smooth L1 of the encoded target, or 1 - GIoU (Rezatofighi et al. 2019).

    `deltas` and `targets` (boxes) are `[N, M, 4]`, `anchors` `[M, 4]`, `positive` `[N, M]`.
    """
    # Other anchors aim at themselves and hit: loss and gradient are 0, and no log or division sees an empty box.
    targets = torch.where(positive[..., None], targets, anchors)
    deltas = torch.where(positive[..., None], deltas, 0)
    if kind == "giou":
        return (1 - giou(decode(deltas, anchors), targets)).where(positive, 0).sum()
    return F.smooth_l1_loss(deltas, encode(targets, anchors), beta=SMOOTH_L1_BETA, reduction="sum")


def _by_anchor(level: Tensor, channels: int) -> Tensor:
    """`[N, A*channels, H, W]` as `[N, H*W*A, channels]`; a view where memory is channels-last."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, channels)
