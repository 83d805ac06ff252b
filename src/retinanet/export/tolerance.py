"""How far detections of an artifact may be from those of its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.config import ExportPrecision
from retinanet.types import Detections


@dataclass(frozen=True)
class Tolerance:
    """When two detections of one class are the same, and how many may be lost or added."""

    score: float
    """Largest difference of their scores."""
    box: float
    """Largest difference of their edges, as a part of the box's longer side or of 32 pixels, whichever is more."""
    unmatched: float
    """Part of the detections that may have no partner."""
    ap: float
    """Largest loss of average precision, 0…1, where there are annotations to measure it with."""


TOLERANCES: dict[ExportPrecision, Tolerance] = {
    "fp32": Tolerance(score=1e-4, box=1e-3, unmatched=0.005, ap=0.0005),
    "fp16": Tolerance(score=0.02, box=0.05, unmatched=0.05, ap=0.001),
    "int8": Tolerance(score=0.1, box=0.25, unmatched=0.1, ap=0.01),
    "fp8": Tolerance(score=0.1, box=0.25, unmatched=0.1, ap=0.01),
}


class Gaps(NamedTuple):
    """Between each of R detections and each of F others in a picture, `[R, F]`."""

    score: Tensor
    box: Tensor
    """As `Tolerance.box`."""
    distance: Tensor
    """Both in parts of their tolerances, added up; infinite where the two are not the same."""


def gaps(expected: Detections, found: Detections, tolerance: Tolerance) -> Gaps:
    """Between the detections in a picture (N = 1), or candidates in their place, and those found in it."""
    (scores, boxes, labels), others = _used(expected), _used(found)
    side = (boxes[:, 2:] - boxes[:, :2]).amax(-1).clamp(min=32)
    box = (boxes[:, None] - others[1]).abs().amax(-1) / side[:, None]
    score = (scores[:, None] - others[0]).abs()
    same = (box <= tolerance.box) & (score <= tolerance.score) & (labels[:, None] == others[2])
    return Gaps(score, box, torch.where(same, box / tolerance.box + score / tolerance.score, torch.inf))


def _used(detections: Detections) -> tuple[Tensor, Tensor, Tensor]:
    scores, boxes, labels = (column[0, : int(detections.count)] for column in detections[:3])
    return scores, boxes, labels
