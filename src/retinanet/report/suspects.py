"""Likely label errors: where a sure detector and the annotations contradict each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from retinanet import boxes
from retinanet.data.annotations import CocoData
from retinanet.predict.results import Results
from retinanet.report.figures import Figures

SURE = 0.5
"""Lowest score of a detection that is held against an annotation."""
OVERLAP = 0.1
"""IoU below which boxes have nothing to do with each other (TIDE's, Bolya et al. 2020)."""

Kind = Literal["not annotated?", "other class?", "nothing there?"]


@dataclass(frozen=True)
class Suspect:
    """An annotation that may be wrong or missing."""

    kind: Kind
    image: int
    """Position in the data."""
    annotation: int | None
    """Row of `data.boxes`; None where it is missing."""
    detection: int | None
    """Row of `figures.confident`; None where nothing was detected."""
    score: float | None = None


def find_suspects(data: CocoData, results: Results, figures: Figures) -> list[Suspect]:
    """Sure detections that match nothing or an object of another class, surest first; then annotations that nothing
    among all `results` overlaps, largest first."""
    place = {image_id: index for index, image_id in enumerate(data.image_ids.tolist())}
    evaluation, suspects = figures.evaluation, []
    for error in figures.diagnostics["label_errors"]:
        if error["dt_score"] < SURE:
            continue
        suspects.append(
            Suspect(
                kind="not annotated?" if error["gt_id"] is None else "other class?",
                image=place[int(evaluation.image_ids[error["image_id"]])],
                annotation=None if error["gt_id"] is None else int(evaluation.annotation_rows[error["gt_id"] - 1]),
                detection=int(evaluation.result_rows[error["dt_id"] - 1]),
                score=error["dt_score"],
            )
        )
    suspects.sort(key=lambda suspect: -(suspect.score or 0))
    missed = [id_ - 1 for id_, status in figures.diagnostics["gt_status"].items() if status == "fn"]
    return suspects + _alone(data, results, np.sort(evaluation.annotation_rows[missed]))


def _alone(data: CocoData, results: Results, rows: np.ndarray) -> list[Suspect]:
    """Those of annotations `rows` that overlap no result of any class."""
    image_of_row = np.searchsorted(data.offsets, rows, side="right") - 1
    order = np.argsort(results.image_ids, kind="stable")
    sorted_ids = results.image_ids[order]
    alone = []
    for image in np.unique(image_of_row):
        of_image = rows[image_of_row == image]
        first, last = np.searchsorted(sorted_ids, [data.image_ids[image], data.image_ids[image] + 1])
        found = boxes.from_xywh(torch.from_numpy(results.xywh[order[first:last]]))
        annotated = boxes.from_xywh(torch.from_numpy(data.boxes[of_image]))
        nearest = boxes.iou(annotated[:, None], found).numpy().max(axis=1, initial=0)
        alone += [Suspect("nothing there?", int(image), int(row), None) for row in of_image[nearest < OVERLAP]]
    return sorted(alone, key=lambda suspect: -data.boxes[suspect.annotation, 2:].prod())
