"""Everything that the report says in numbers, computed by hotcoco."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet.data.annotations import CocoData
from retinanet.evaluate.coco import Metrics, metrics_of
from retinanet.evaluate.evaluator import Evaluation, positions, run_evaluator
from retinanet.predict.results import Results
from retinanet.report.per_class import ClassFigures, Counts, best_thresholds, class_figures

MATCH_IOU = 0.5
NO_THRESHOLD = 0.5
"""Stands in for the threshold of a class of which no detection is right."""


@dataclass(frozen=True)
class Figures:
    """The numbers of a report. *Confident* detections are those at or above the threshold of their class."""

    metrics: Metrics
    classes: tuple[ClassFigures, ...]
    """In the order of the class map."""
    tide: dict[str, Any]
    """hotcoco's `tide_errors`: `delta_ap` and `counts` by kind."""
    calibration: dict[str, Any]
    """hotcoco's `calibration`: `ece` and `bins`."""
    confident: Results
    evaluation: Evaluation
    """Of the confident detections."""
    diagnostics: dict[str, Any]
    """hotcoco's `image_diagnostics` of that evaluation."""
    confusion: NDArray[np.int64]
    """`[C + 1, C + 1]`: of annotated (rows) and confidently detected (columns) objects; the last of each is nothing."""


def measure(data: CocoData, results: Results) -> Figures:
    """Compute a report's numbers.

    Raises:
        DataError: `results` and `data` do not belong together.
    """
    assert data.classes is not None
    whole = run_evaluator(data, results)
    thresholds = best_thresholds(whole.coco.eval)
    labels = positions(results.category_ids, np.asarray(data.classes.ids))
    limits = np.append(np.nan_to_num(thresholds, nan=NO_THRESHOLD), np.inf)  # the last for -1, an unknown category
    sure = results.scores >= limits[labels]
    confident, labels = results[sure], labels[sure]

    evaluation = run_evaluator(data, confident)
    diagnostics = evaluation.coco.image_diagnostics(iou_thr=MATCH_IOU)
    judged, right = (
        evaluation.result_rows[[id_ - 1 for id_, status in diagnostics["dt_status"].items() if status in wanted]]
        for wanted in (("tp", "fp"), ("tp",))
    )
    truth = whole.annotation_rows[~data.crowd[whole.annotation_rows]]
    counts = Counts(
        *(np.bincount(each, minlength=len(thresholds)) for each in (data.labels[truth], labels[judged], labels[right]))
    )
    calibration = whole.coco.calibration(iou_threshold=MATCH_IOU)
    # hotcoco's matrix would count detections of crowds as false; COCO ignores them.
    compared = run_evaluator(data, confident[np.sort(judged)])
    confusion = compared.coco.confusion_matrix(iou_thr=MATCH_IOU, min_score=0.0)["matrix"]
    return Figures(
        metrics=metrics_of(whole, data),
        classes=class_figures(data.classes.names, whole.coco.eval, thresholds, counts, calibration["per_category"]),
        tide=whole.coco.tide_errors(pos_thr=MATCH_IOU),
        calibration=calibration,
        confident=confident,
        evaluation=evaluation,
        diagnostics=diagnostics,
        confusion=confusion.astype(np.int64),
    )
