"""Detections of an artifact beside those of its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from retinanet.export.ties import suppress_as
from retinanet.export.tolerance import Tolerance, gaps
from retinanet.types import Detections


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
    ties: int = 0
    """Detections, of either, that differ only because suppression chose otherwise between scores that are the same."""
    score: float = 0.0
    """Largest difference between partners."""
    box: float = 0.0
    """As `Tolerance.box`, between partners."""

    def add(self, expected: Detections, found: Detections) -> None:
        """Compare the detections of one picture (N = 1)."""
        self._count(expected, self._match(expected, found))

    def add_with_ties(
        self, expected: Detections, found: Detections, candidates: Detections, iou_threshold: float
    ) -> None:
        """As `add`; the checkpoint's `candidates` before suppression tell apart what differs by ties alone."""
        matched = self._match(expected, found)
        if matched.unmatched:
            slots = expected.scores.shape[1]
            decided = suppress_as(found, candidates, self.tolerance, iou_threshold, slots)
            otherwise = self._match(decided, found)
            if otherwise.unmatched < matched.unmatched:
                self.ties += matched.unmatched - otherwise.unmatched
                matched = otherwise
        self._count(expected, matched)

    def _match(self, expected: Detections, found: Detections) -> _Matched:
        """Each of the expected takes the nearest that is still free."""
        score, box, distance = gaps(expected, found, self.tolerance)
        rows, columns = distance.shape
        lost, added = torch.ones(rows, dtype=torch.bool), torch.ones(columns, dtype=torch.bool)
        worst_score, worst_box = 0.0, 0.0
        for row in range(rows if columns else 0):
            column = int(distance[row].argmin())
            if distance[row, column] < torch.inf:
                lost[row] = added[column] = False
                distance[:, column] = torch.inf
                worst_score = max(worst_score, float(score[row, column]))
                worst_box = max(worst_box, float(box[row, column]))
        edge = max(self._edge(expected), self._edge(found))
        alone = [*expected.scores[0, :rows][lost].tolist(), *found.scores[0, :columns][added].tolist()]
        return _Matched(sum(score > edge for score in alone), worst_score, worst_box)

    def _count(self, expected: Detections, matched: _Matched) -> None:
        self.detections += int(expected.count)
        self.unmatched += matched.unmatched
        self.score, self.box = max(self.score, matched.score), max(self.box, matched.box)

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
        ties = f"{self.ties} more by ties of overlapping ones, " if self.ties else ""
        return (
            f"{self.detections} detections, {self.unmatched} without a partner (at most {self.allowed}), {ties}"
            f"scores differ by up to {self.score:.1e} (at most {self.tolerance.score:g}), "
            f"boxes by {self.box:.1e} of their size (at most {self.tolerance.box:g})"
        )


class _Matched(NamedTuple):
    """As in `Differences`, of one picture."""

    unmatched: int
    score: float
    box: float
