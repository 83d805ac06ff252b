"""Likely label errors: where a sure detector and the annotations contradict each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from retinanet import boxes
from retinanet.data.annotations import CocoData
from retinanet.evaluate.evaluator import positions, run_evaluator
from retinanet.predict.results import Results

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
    """Row of the results; None where nothing was detected."""


def find_suspects(data: CocoData, results: Results) -> list[Suspect]:
    """Sure detections that match nothing or an object of another class, surest first; then annotations that nothing
    among all `results` overlaps, largest first. Crowds are no suspects, nor is what lies in one of its own class.

    hotcoco finds the former (`label_errors` of its `image_diagnostics`).
    """
    assert data.classes is not None
    sure = np.flatnonzero((results.scores >= SURE) & np.isin(results.category_ids, data.classes.ids))
    evaluation = run_evaluator(data, results[sure])
    images = positions(evaluation.image_ids, data.image_ids)
    suspects = []
    for error in evaluation.coco.image_diagnostics(score_thr=SURE)["label_errors"]:
        annotation = None if error["gt_id"] is None else int(evaluation.annotation_rows[error["gt_id"] - 1])
        detection = int(sure[evaluation.result_rows[error["dt_id"] - 1]])
        kind: Kind = "not annotated?" if annotation is None else "other class?"
        suspects.append(Suspect(kind, int(images[error["image_id"]]), annotation, detection))
    suspects.sort(key=lambda suspect: -results.scores[suspect.detection])
    objects = evaluation.annotation_rows[~data.crowd[evaluation.annotation_rows]]
    return suspects + _alone(data, results, objects)


def _alone(data: CocoData, results: Results, rows: NDArray[np.int64]) -> list[Suspect]:
    """Those of annotations `rows`, which ascend, that overlap no result of any class."""
    order = np.argsort(results.image_ids, kind="stable")
    sorted_ids = results.image_ids[order]
    image_of_row = np.searchsorted(data.offsets, rows, side="right") - 1
    alone = []
    for image, of_image in zip(*_grouped(image_of_row, rows), strict=True):
        first, last = (np.searchsorted(sorted_ids, data.image_ids[image], side) for side in ("left", "right"))
        found = boxes.from_xywh(torch.from_numpy(results.xywh[order[first:last]]))
        annotated = boxes.from_xywh(torch.from_numpy(data.boxes[of_image]))
        nearest = boxes.iou(annotated[:, None], found).numpy().max(axis=1, initial=0)
        alone += [Suspect("nothing there?", int(image), int(row), None) for row in of_image[nearest < OVERLAP]]
    return sorted(alone, key=lambda suspect: -data.boxes[suspect.annotation, 2:].prod())


def _grouped(keys: NDArray[np.int64], values: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """The distinct ones of ascending `keys`, and the `values` of each."""
    distinct, starts = np.unique(keys, return_index=True)
    return distinct, np.split(values, starts)[1:]
