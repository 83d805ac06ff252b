"""Of overlapping boxes that score the same, suppression keeps one, and rounding decides which."""

from __future__ import annotations

import torch

from retinanet.export.tolerance import Tolerance, gaps
from retinanet.ops.nms.reference import gather_kept, take_best, usable_scores
from retinanet.types import Detections


def suppress_as(
    found: Detections, candidates: Detections, tolerance: Tolerance, iou_threshold: float, detections: int
) -> Detections:
    """What NMS keeps of the candidates (N = 1) when it prefers those that are `found`.

    They are preferred to candidates that score higher by no more than the tolerance, and to no others. What is found
    and is no candidate changes nothing.
    """
    distance = gaps(candidates, found, tolerance).distance
    preferred = candidates.scores.clone()
    for column in range(int(found.count) if len(distance) else 0):
        row = int(distance[:, column].argmin())
        if distance[row, column] < torch.inf:
            preferred[0, row] = candidates.scores[0, row] + tolerance.score

    alive = usable_scores(preferred, candidates.boxes)
    scores, kept = [], []
    for _ in range(detections):
        alive, score, best = take_best(alive, candidates.boxes, candidates.labels, iou_threshold)
        scores.append(candidates.scores.gather(1, best).where(score > 0, 0))
        kept.append(best)
    return Detections(*gather_kept(torch.cat(scores, 1), torch.cat(kept, 1), candidates.boxes, candidates.labels))
