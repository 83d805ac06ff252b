"""What rounding decides is told apart from what an artifact does otherwise."""

from __future__ import annotations

import pytest
import torch
from same_detections import detections
from torch import Tensor
from torchvision.ops import batched_nms

from retinanet.export.compare import Differences
from retinanet.export.tolerance import Tolerance
from retinanet.types import Detections

TOLERANCE = Tolerance(score=0.01, box=0.02, unmatched=0.0, ap=0.01)
IOU = 0.5
SLOTS = 50
Row = tuple[float, float, int]

# Boxes are 50 wide: neighbours at a distance of 10 overlap by 2/3, those at 20 by 3/7.
A, B, C, FAR = (0.9, 0.0, 1), (0.895, 10.0, 1), (0.7, -10.0, 1), (0.6, 300.0, 0)


def by_torchvision(candidates: Detections, scores: Tensor) -> Detections:
    """What it keeps of the candidates when they score so."""
    kept = batched_nms(candidates.boxes[0], scores, candidates.labels[0], IOU)
    columns = (scores[kept], candidates.boxes[0, kept], candidates.labels[0, kept])
    return Detections(*(column[None] for column in columns), torch.tensor([len(kept)]))


def compared(candidates: Detections, expected: Detections, found: Detections) -> Differences:
    differences = Differences(TOLERANCE, threshold=0.05)
    differences.add_with_ties(expected, found, candidates, IOU)
    return differences


@pytest.mark.parametrize(
    ("found", "unmatched", "ties"),
    [
        ([A, FAR], 0, 0),
        ([B, FAR], 0, 2),
        ([(0.902, 10.0, 1), FAR], 0, 2),  # within the tolerance of B's score
        ([(0.92, 10.0, 1), FAR], 2, 0),  # not so
        ([(0.895, 12.0, 1), FAR], 2, 0),  # no candidate's box
        ([(0.895, 10.0, 0), FAR], 2, 0),  # no candidate's class
        ([A, B, FAR], 1, 0),  # not suppressed at all
        ([FAR], 1, 0),  # neither
        ([B], 1, 2),  # something else is missing too
    ],
)
def test_one_of_two(found: list[Row], unmatched: int, ties: int) -> None:
    candidates = detections(A, B, FAR, slots=5)
    differences = compared(candidates, detections(A, FAR, slots=SLOTS), detections(*found, slots=SLOTS))
    assert (differences.unmatched, differences.ties) == (unmatched, ties)


def test_what_lives_because_another_died() -> None:
    """A suppresses B and C, but B leaves C alone."""
    candidates, expected = detections(A, B, C, slots=3), detections(A, slots=SLOTS)
    assert by_torchvision(candidates, candidates.scores[0]).count == 1
    differences = compared(candidates, expected, detections(B, C, slots=SLOTS))
    assert (differences.unmatched, differences.ties) == (0, 3)
    assert "0 without a partner (at most 0), 3 more by ties" in str(differences)
    differences = compared(candidates, expected, detections(A, C, slots=SLOTS))  # C should have died
    assert (differences.unmatched, differences.ties) == (1, 0)


def test_a_higher_score_by_more_than_the_tolerance_is_no_tie() -> None:
    low = (0.88, 10.0, 1)
    differences = compared(detections(A, low, slots=2), detections(A, slots=SLOTS), detections(low, slots=SLOTS))
    assert (differences.unmatched, differences.ties) == (2, 0)


def test_whatever_rounding_does_to_the_scores_is_a_tie() -> None:
    """Crowded candidates of few distinct scores, suppressed by torchvision, with scores that are hardly others."""
    generator = torch.Generator().manual_seed(0)
    count, ties = 60, 0
    for _ in range(20):
        corners = torch.rand(count, 2, generator=generator) * 60
        boxes = torch.cat([corners, corners + 30 + 20 * torch.rand(count, 2, generator=generator)], 1)
        scores = 0.3 + torch.randint(0, 5, (count,), generator=generator) * 0.1
        labels = torch.randint(0, 2, (count,), generator=generator)
        candidates = Detections(scores[None], boxes[None], labels[None], torch.tensor([count]))
        rounded = scores + (torch.rand(count, generator=generator) - 0.5) * 0.98 * TOLERANCE.score
        expected, found = (with_free_slots(by_torchvision(candidates, values)) for values in (scores, rounded))
        plain = Differences(TOLERANCE, threshold=0.05)
        plain.add(expected, found)
        differences = compared(candidates, expected, found)
        assert (differences.unmatched, differences.ties) == (0, plain.unmatched)
        ties += differences.ties
    assert ties > 50


def with_free_slots(found: Detections) -> Detections:
    """Not full, so that its last score is no edge."""
    missing = SLOTS - found.scores.shape[1]
    scores, boxes, labels = (
        torch.cat([column, torch.full((1, missing, *column.shape[2:]), value, dtype=column.dtype)], 1)
        for column, value in zip(found[:3], (0, 0, -1), strict=True)
    )
    return Detections(scores, boxes, labels, found.count)
