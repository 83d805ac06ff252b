"""The section on confusion: which class is taken for which."""

from __future__ import annotations

import numpy as np

from retinanet.page import Page, Row, Tags, matrix, table
from retinanet.report.figures import MATCH_IOU, Figures

_MOST_CONFUSED = 24
_MOST_PAIRS = 15


def add_confusion(page: Page, figures: Figures) -> None:
    """Which class is taken for which."""
    section = page.section(
        "Confusion",
        f"What was annotated (rows) and what was detected there (columns) at IoU {MATCH_IOU:.2f}, by the detections at "
        "or above the suggested threshold of their class. The last column holds missed objects, the last row false "
        "alarms; a cell's shade is its share of the row.",
    )
    names = [c.name for c in figures.classes]
    mixed = figures.confusion[:-1, :-1] * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-(mixed.sum(axis=0) + mixed.sum(axis=1)), kind="stable")[:_MOST_CONFUSED]
    shown = np.append(np.sort(order), len(names))
    if len(names) > _MOST_CONFUSED:
        section.add(f"The {_MOST_CONFUSED} classes that are confused most, of {len(names)}.")
    picked = [names[index] for index in shown[:-1]]
    section.add(
        matrix(
            "Confusion matrix",
            "annotated ↓ detected →",
            [*picked, "nothing"],
            [*picked, "nothing"],
            figures.confusion[np.ix_(shown, shown)],
        )
    )
    objects = figures.confusion[:-1].sum(axis=1)
    pairs = [divmod(int(place), len(names)) for place in np.argsort(-mixed, axis=None, kind="stable")[:_MOST_PAIRS]]
    rows = [
        Row([names[a], names[b], int(mixed[a, b]), float(mixed[a, b] / objects[a])], Tags((names[a], names[b])))
        for a, b in pairs
        if mixed[a, b]
    ]
    if rows:
        section.add(
            table(["annotated", "detected", "count", "share of the class"], rows, caption="Most confused", digits=2)
        )
