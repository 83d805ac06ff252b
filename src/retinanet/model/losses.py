"""Losses of the classes (focal, quality focal) and of the boxes (smooth L1, GIoU), each a sum over its anchors.

Lin et al. 2017, section 3; Li et al. 2020, "Generalized Focal Loss", equation 2; Rezatofighi et al. 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from retinanet.boxes import decode, encode, giou, iou
from retinanet.config import BoxLoss
from retinanet.ops.focal_loss import focal_loss

SMOOTH_L1_BETA = 0.11
"""Where smooth L1 turns from square to line (Detectron's value for RetinaNet)."""
GIOU_WEIGHT = 2.0
"""1 - GIoU is at most 2, smooth L1 of four deltas often more (the weight of ATSS and of Generalized Focal Loss)."""


def class_loss(logits: tuple[Tensor, ...], labels: Tensor, classes: int, alpha: float = 0.25) -> Tensor:
    """Sum of the focal loss over levels; `labels` `[N, M]` as `match` gives them."""
    by_level = [by_anchor(level, classes) for level in logits]
    parts = torch.split(labels, [level.shape[1] for level in by_level], dim=1)
    losses = [focal_loss(level, part, alpha=alpha) for level, part in zip(by_level, parts, strict=True)]
    return torch.stack(losses).sum()


def quality_loss(logits: tuple[Tensor, ...], labels: Tensor, quality: Tensor, classes: int) -> Tensor:
    """Sum of the quality focal loss, |y - p|^2 * cross entropy(p, y): a class learns how well its box fits.

    y is `quality` `[N, M]`, 0…1, for the class of a positive anchor, and 0 for all others. Where y is 0 this is the
    focal loss of the background with a weight of 1, which leaves the positive's own class (weight 0) to be added.
    """
    background = class_loss(logits, labels, classes, alpha=0.0)
    own = [by_anchor(level, classes) for level in logits]
    parts = torch.split(labels, [level.shape[1] for level in own], dim=1)
    own = [level.gather(2, part.clamp(min=0)[..., None])[..., 0] for level, part in zip(own, parts, strict=True)]
    logit = torch.cat(own, dim=1).float()  # [N, M]
    entropy = F.binary_cross_entropy_with_logits(logit, quality, reduction="none")
    return background + ((quality - logit.sigmoid()).square() * entropy).where(labels >= 0, 0).sum()


def box_quality(deltas: Tensor, anchors: Tensor, targets: Tensor, positive: Tensor) -> Tensor:
    """IoU `[N, M]` of each positive anchor's predicted box with its target; 0 for others. Not differentiated."""
    predicted = decode(deltas.detach().where(positive[..., None], 0), anchors)
    return iou(predicted, targets).where(positive, 0)


def box_loss(deltas: Tensor, anchors: Tensor, targets: Tensor, positive: Tensor, kind: BoxLoss) -> Tensor:
    """Sum over positive anchors: smooth L1 of the encoded target, or `GIOU_WEIGHT` * (1 - GIoU).

    `deltas` and `targets` (boxes) are `[N, M, 4]`, `anchors` `[M, 4]`, `positive` `[N, M]`.
    """
    # Other anchors aim at themselves and hit: loss and gradient are 0, and no log or division sees an empty box.
    targets = torch.where(positive[..., None], targets, anchors)
    deltas = torch.where(positive[..., None], deltas, 0)
    if kind == "giou":
        return GIOU_WEIGHT * (1 - giou(decode(deltas, anchors), targets)).where(positive, 0).sum()
    return F.smooth_l1_loss(deltas, encode(targets, anchors), beta=SMOOTH_L1_BETA, reduction="sum")


def by_anchor(level: Tensor, channels: int) -> Tensor:
    """`[N, A*channels, H, W]` as `[N, H*W*A, channels]`; a view where memory is channels-last."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, channels)
