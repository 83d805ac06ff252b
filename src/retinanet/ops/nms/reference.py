"""What class-wise greedy NMS means, in plain PyTorch: fixed shapes only, so that export and compilation pass."""

import torch
from torch import Tensor

from retinanet.boxes import iou
from retinanet.types import NO_LABEL


def nms(
    scores: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float, detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores `[N, D]`, boxes `[N, D, 4]`, labels `[N, D]` and count `[N]` of what survives.

    A fixed number of steps: each takes the best candidate that lives and kills what it overlaps. As D are kept,
    D rows of the matrix of overlaps are all that is ever needed.
    """
    alive = usable_scores(scores, boxes)
    kept_scores, kept = [], []
    for _ in range(detections):
        alive, score, best = take_best(alive, boxes, labels, iou_threshold)
        kept_scores.append(score)
        kept.append(best)
    return gather_kept(torch.cat(kept_scores, 1), torch.cat(kept, 1), boxes, labels)


def usable_scores(scores: Tensor, boxes: Tensor) -> Tensor:
    """The scores `[N, K]`, 0 where a candidate is padding or not finite."""
    usable = (scores > 0) & torch.isfinite(scores) & torch.isfinite(boxes).all(-1)
    return scores.where(usable, 0)


def take_best(alive: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """One step: who is alive after it `[N, K]` (scores, 0 once dead), and the score and position `[N, 1]` of the best.

    Once nobody lives, the score is 0.
    """
    score, best = alive.max(dim=1, keepdim=True)  # the first of equals
    box = boxes.gather(1, best[..., None].expand(-1, -1, 4))
    dies = (labels == labels.gather(1, best)) & (iou(box, boxes) > iou_threshold)
    return alive.where(~dies, 0).scatter(1, best, 0), score, best


def gather_kept(score: Tensor, kept: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `nms` returns, from the scores and positions `[N, D]` that its steps took."""
    found = score > 0
    kept_boxes = boxes.gather(1, kept[..., None].expand(-1, -1, 4)).where(found[..., None], 0)
    return score, kept_boxes, labels.gather(1, kept).where(found, NO_LABEL), found.sum(1)
