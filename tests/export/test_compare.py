"""The comparison finds every kind of difference, and forgives those at a threshold's edge."""

from __future__ import annotations

import pytest
from same_detections import detections

from retinanet.export.compare import Differences
from retinanet.export.tolerance import Tolerance
from retinanet.types import Detections

TOLERANCE = Tolerance(score=0.01, box=0.02, unmatched=0.1, ap=0.01)


def unmatched(expected: Detections, found: Detections) -> int:
    differences = Differences(TOLERANCE, threshold=0.05)
    differences.add(expected, found)
    assert differences.detections == int(expected.count)
    return differences.unmatched


THREE = ((0.9, 0.0, 1), (0.8, 100.0, 0), (0.7, 200.0, 1))


@pytest.mark.parametrize(
    ("found", "count"),
    [
        (THREE, 0),
        (THREE[::-1], 0),  # another order
        (((0.895, 0.5, 1), *THREE[1:]), 0),  # within both tolerances
        (((0.88, 0.0, 1), *THREE[1:]), 2),  # another score: one lost, one added
        (((0.9, 1.5, 1), *THREE[1:]), 2),  # another place
        (((0.9, 0.0, 0), *THREE[1:]), 2),  # another class
        (THREE[:2], 1),
        ((*THREE, (0.3, 300.0, 0)), 1),
        ((*THREE, THREE[2]), 1),  # a double is no partner
        ((*THREE, (0.055, 300.0, 0)), 0),  # at the threshold's edge
        ((), 3),
    ],
)
def test_what_has_no_partner_is_counted(found: tuple, count: int) -> None:
    assert unmatched(detections(*THREE), detections(*found)) == count
    assert unmatched(detections(*found), detections(*THREE)) == count


def test_the_last_of_a_full_list_is_an_edge_too() -> None:
    expected = detections(*THREE, slots=3)
    swapped = detections(*THREE[:2], (0.705, 300.0, 0), slots=3)
    assert unmatched(expected, swapped) == 0
    assert unmatched(detections(*THREE), detections(*THREE[:2], (0.705, 300.0, 0))) == 2


def test_the_nearest_is_the_partner() -> None:
    differences = Differences(TOLERANCE, threshold=0.05)
    differences.add(detections((0.9, 0.0, 1), (0.9, 0.5, 1)), detections((0.9, 0.5, 1), (0.9, 0.0, 1)))
    assert (differences.unmatched, differences.score, differences.box) == (0, 0.0, 0.0)


def test_differences_of_partners_and_what_is_allowed() -> None:
    differences = Differences(TOLERANCE, threshold=0.05)
    for _ in range(7):
        differences.add(detections(*THREE), detections((0.905, 0.5, 1), *THREE[1:]))
    assert differences.score == pytest.approx(0.005)
    assert differences.box == pytest.approx(0.01)
    assert differences.allowed == 2
    assert "21 detections, 0 without a partner (at most 2)" in str(differences)
