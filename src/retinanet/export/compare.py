"""How far detections of an artifact are from those of its checkpoint, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass

import torch

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


@dataclass
class Differences:
    """What the comparison of some pictures has found."""

    tolerance: Tolerance
    threshold: float
    """Of the scores."""
    detections: int = 0
    """Of the checkpoint."""
    unmatched: int = 0
    """Detections, of either, without a partner; those at a threshold's edge don't count."""
    score: float = 0.0
    """Largest difference between partners."""
    box: float = 0.0
    """As `Tolerance.box`, between partners."""

    def add(self, expected: Detections, found: Detections) -> None:
        """Compare the detections of one picture (N = 1): each of the expected takes the nearest that is still free."""
        rows, columns = int(expected.count), int(found.count)
        scores, others = expected.scores[0, :rows], found.scores[0, :columns]
        boxes = expected.boxes[0, :rows]
        side = (boxes[:, 2:] - boxes[:, :2]).amax(-1).clamp(min=32)
        box = (boxes[:, None] - found.boxes[0, :columns]).abs().amax(-1) / side[:, None]  # [rows, columns]
        score = (scores[:, None] - others).abs()
        near = (box <= self.tolerance.box) & (score <= self.tolerance.score)
        near &= expected.labels[0, :rows, None] == found.labels[0, :columns]

        distance = torch.where(near, box / self.tolerance.box + score / self.tolerance.score, torch.inf)
        lost, added = torch.ones(rows, dtype=torch.bool), torch.ones(columns, dtype=torch.bool)
        for row in range(rows if columns else 0):
            column = int(distance[row].argmin())
            if distance[row, column] < torch.inf:
                lost[row] = added[column] = False
                distance[:, column] = torch.inf
                self.score = max(self.score, float(score[row, column]))
                self.box = max(self.box, float(box[row, column]))
        self.detections += rows
        edge = max(self._edge(expected), self._edge(found))
        self.unmatched += int((scores[lost] > edge).sum() + (others[added] > edge).sum())

    def _edge(self, detections: Detections) -> float:
        """Up to this score a detection may be missing: it is as near as that to the lowest that was let in."""
        full = int(detections.count) == detections.scores.shape[1]
        lowest = float(detections.scores[0, -1]) if full else self.threshold
        return max(lowest, self.threshold) + self.tolerance.score

    @property
    def allowed(self) -> int:
        """How many may be without a partner."""
        return int(self.tolerance.unmatched * self.detections)

    def __str__(self) -> str:
        return (
            f"{self.detections} detections, {self.unmatched} without a partner (at most {self.allowed}), "
            f"scores differ by up to {self.score:.1e} (at most {self.tolerance.score:g}), "
            f"boxes by {self.box:.1e} of their size (at most {self.tolerance.box:g})"
        )
