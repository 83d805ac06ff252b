"""What is wrong with boxes, as the annotation file has them."""

from __future__ import annotations

import numpy as np
import torch

from retinanet.boxes import iou
from retinanet.data.annotations import CLIPPED, DEGENERATE, NOT_FINITE, OUTSIDE, CocoData, clipped_corners
from retinanet.doctor.findings import Case, Finding, Split, found

SAME_BOX = 0.95
"""IoU from which on two boxes of a class are taken for one."""
_TINY = 3.0
_MOST_BETWEEN = 64  # neighbours compared, so that a file of one box a million times ends too

_BY_STATUS: tuple[tuple[int, str, str, str], ...] = (
    (CLIPPED, "box-over-edge", "Boxes that stand out of their image", "Training cuts them at its edge."),
    (OUTSIDE, "box-outside", "Boxes outside of their image", "Training leaves them out."),
    (DEGENERATE, "degenerate-box", "Boxes without width or height", "Training leaves them out."),
    (NOT_FINITE, "box-not-finite", "Boxes of NaN or infinity", "Training leaves them out."),
)


def check_boxes(data: CocoData, split: Split) -> list[Finding]:
    """Boxes that training drops or changes, and boxes that are there twice."""
    image_of = np.repeat(np.arange(len(data)), np.diff(data.offsets))  # [M]
    findings: list[Finding] = []
    for status, kind, what, remedy in _BY_STATUS:
        rows = np.flatnonzero(data.status == status)
        cases = (_case(data, image_of, row) for row in rows.tolist())
        findings += found(kind, "warning", split, what, remedy, cases, len(rows))
    tiny = np.flatnonzero(data.usable & ~data.crowd & (data.boxes[:, 2:].max(1) < _TINY))
    cases = (_case(data, image_of, row) for row in tiny.tolist())
    what = f"Boxes narrower and lower than {_TINY:g} pixels"
    findings += found("tiny-box", "warning", split, what, "Remove what a stray click made.", cases, len(tiny))
    twin = _earlier_twins(data, image_of)  # [M]
    later = np.flatnonzero(twin >= 0)
    cases = (_case(data, image_of, int(twin[row]), row) for row in later.tolist())
    what, remedy = "Boxes that repeat another one of their class and image", "Remove them: they count double."
    return findings + found("duplicate-boxes", "warning", split, what, remedy, cases, len(later))


def _case(data: CocoData, image_of: np.ndarray, *rows: int) -> Case:
    image = image_of[rows[0]]
    annotations = tuple(int(data.annotation_ids[row]) for row in rows)
    detail = f"bbox {data.boxes[rows[-1]].tolist()}"
    return Case(detail, (int(data.image_ids[image]),), (data.file_names[image],), annotations)


def _earlier_twins(data: CocoData, image_of: np.ndarray) -> np.ndarray:
    """For each box the row of an earlier one of its image and class with IoU of at least `SAME_BOX`, or -1, `[M]`."""
    rows = np.flatnonzero(data.usable & ~data.crowd)
    left = clipped_corners(data.boxes[rows], data.sizes[image_of[rows]])[:, 0]
    rows = rows[np.lexsort((left, data.labels[rows], image_of[rows]))]
    corners = torch.from_numpy(clipped_corners(data.boxes[rows], data.sizes[image_of[rows]]))
    group = image_of[rows] * (int(data.labels.max(initial=0)) + 1) + data.labels[rows]
    # Boxes of so high an IoU have left edges within a small part of their width, so few neighbours in order of
    # the left edge need be compared.
    left, width = corners[:, 0].numpy(), (corners[:, 2] - corners[:, 0]).numpy()
    reach = width * (1 / SAME_BOX - 1)
    twin = np.full(len(image_of), -1)
    first = np.arange(len(rows))
    for lag in range(1, _MOST_BETWEEN):
        first = first[first + lag < len(rows)]
        near = (group[first + lag] == group[first]) & (left[first + lag] - left[first] <= reach[first])
        first = first[near]
        same = first[(iou(corners[first], corners[first + lag]) >= SAME_BOX).numpy()]
        one, other = rows[same], rows[same + lag]
        twin[np.maximum(one, other)] = np.minimum(one, other)
        if not len(first):
            break
    return twin
