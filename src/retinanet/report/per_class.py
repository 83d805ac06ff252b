"""The numbers of each class, from hotcoco's accumulated arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IOU_50, IOU_75, IOU_90 = 0, 5, 8
"""Positions in COCO's IoU thresholds 0.50, 0.55 … 0.95."""
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_MOST_DETECTIONS = 2  # position of 100 detections an image


@dataclass(frozen=True)
class Counts:
    """Numbers of boxes of each class, `[C]`; the detections are those at or above the threshold of their class."""

    objects: NDArray[np.int64]
    """Annotated, crowds aside."""
    detections: NDArray[np.int64]
    """Judged: neither matched with a crowd nor beyond the 100 of an image."""
    right: NDArray[np.int64]
    """Matched at IoU 0.50."""


@dataclass(frozen=True)
class ClassFigures:
    """What is known of a class; a number is None where nothing could count for it, as `APl` without large objects."""

    name: str
    objects: int
    AP: float | None
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    AR100: float | None
    curves: NDArray[np.float64]
    """`[10, 101]`: interpolated precision at each IoU threshold, by recall 0, 0.01 … 1; -1 without ground truth."""
    threshold: float | None
    """The score at which F1 at IoU 0.50 is highest; None where no detection is right."""
    precision: float | None
    """At that score and IoU 0.50, as is `recall`."""
    recall: float | None
    calibration_error: float | None
    """Expected calibration error; None without detections."""


def class_figures(
    names: Sequence[str],
    accumulated: dict[str, Any],
    thresholds: NDArray[np.float64],
    counts: Counts,
    calibration: dict[str, float],
) -> tuple[ClassFigures, ...]:
    """The figures of all classes.

    Args:
        names: of the C classes.
        accumulated: `precision` `[10, 101, C, 4, 3]` and `recall` `[10, C, 4, 3]`, as in `COCOeval.eval`.
        thresholds: `[C]`, of `best_thresholds`.
        counts: at those thresholds.
        calibration: hotcoco's expected calibration error of each class, by the position of the class as text.
    """
    precision, recall = accumulated["precision"][..., _MOST_DETECTIONS], accumulated["recall"][..., _MOST_DETECTIONS]
    return tuple(
        ClassFigures(
            name=name,
            objects=int(counts.objects[index]),
            AP=_mean(precision[:, :, index, _ALL]),
            AP50=_mean(precision[IOU_50, :, index, _ALL]),
            AP75=_mean(precision[IOU_75, :, index, _ALL]),
            APs=_mean(precision[:, :, index, _SMALL]),
            APm=_mean(precision[:, :, index, _MEDIUM]),
            APl=_mean(precision[:, :, index, _LARGE]),
            AR100=_mean(recall[:, index, _ALL]),
            curves=precision[:, :, index, _ALL],
            threshold=None if np.isnan(thresholds[index]) else float(thresholds[index]),
            precision=_share(counts.right[index], counts.detections[index]),
            recall=_share(counts.right[index], counts.objects[index]),
            calibration_error=calibration.get(str(index)),
        )
        for index, name in enumerate(names)
    )


def best_thresholds(accumulated: dict[str, Any]) -> NDArray[np.float64]:
    """`[C]`: the score at which the F1 of precision and recall at IoU 0.50 is highest; NaN where no F1 is above 0."""
    precision = accumulated["precision"][IOU_50, :, :, _ALL, _MOST_DETECTIONS]
    scores = accumulated["scores"][IOU_50, :, :, _ALL, _MOST_DETECTIONS]
    f1 = f1_by_recall(precision)
    best = f1.argmax(axis=0), np.arange(f1.shape[1])
    return np.where(f1[best] > 0, scores[best], np.nan)


def f1_by_recall(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 `[101, C]` of interpolated precisions `[101, C]` at recall 0, 0.01 … 1; 0 where there is no precision."""
    recall, precision = np.linspace(0, 1, len(precision))[:, None], precision.clip(min=0)
    f1: NDArray[np.float64] = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return f1


def _mean(values: NDArray[np.float64]) -> float | None:
    """As COCO averages: over what is not -1."""
    valid = values[values > -1]
    return float(valid.mean()) if len(valid) else None


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
