"""COCO's detection metrics (https://cocodataset.org/#detection-eval), computed by hotcoco, equal to pycocotools'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from retinanet.data.annotations import CocoData
from retinanet.errors import DataError
from retinanet.predict.results import Results
from retinanet.types import ClassMap

# name: IoU, area, detections an image
_AXES = {
    "AP": ("0.50:0.95", "all", 100),
    "AP50": ("0.50", "all", 100),
    "AP75": ("0.75", "all", 100),
    "APs": ("0.50:0.95", "small", 100),
    "APm": ("0.50:0.95", "medium", 100),
    "APl": ("0.50:0.95", "large", 100),
    "AR1": ("0.50:0.95", "all", 1),
    "AR10": ("0.50:0.95", "all", 10),
    "AR100": ("0.50:0.95", "all", 100),
    "ARs": ("0.50:0.95", "small", 100),
    "ARm": ("0.50:0.95", "medium", 100),
    "ARl": ("0.50:0.95", "large", 100),
}


@dataclass(frozen=True)
class ClassMetric:
    """Average precision of one class."""

    category_id: int
    name: str
    AP: float | None
    """Mean over IoU 0.50:0.95, 0…1; None where the class has no ground truth (crowds aside) in the images evaluated."""


@dataclass(frozen=True)
class Metrics:
    """COCO's 12 numbers by their names, 0…1, and the AP of each class.

    As in COCO, a number is -1 where no ground truth could count for it: `APl` of images without large objects. Where
    there is ground truth but no detection it is 0; this holds without any detection too, where pycocotools raises.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    per_class: tuple[ClassMetric, ...]
    """In the order of the class map."""

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON: the 12 by name, and `per_class` as a list."""
        return asdict(self)

    def table(self) -> str:
        """The 12 lines that pycocotools prints, then a line for each class; no line break at the end."""
        lines = []
        for name, (iou, area, limit) in _AXES.items():
            title = "Average Precision  (AP)" if name.startswith("AP") else "Average Recall     (AR)"
            value = getattr(self, name)
            lines.append(f" {title} @[ IoU={iou:<9} | area={area:>6} | maxDets={limit:>3} ] = {value:0.3f}")
        width = max(len(metric.name) for metric in self.per_class)
        lines += ["", f" {'class':<{width}}  {'id':>6}     AP"]
        for metric in self.per_class:
            shown = "–" if metric.AP is None else f"{metric.AP:0.3f}"
            lines.append(f" {metric.name:<{width}}  {metric.category_id:>6}  {shown:>5}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Evaluation:
    """hotcoco's evaluator after its run, in which positions serve as ids, and what they are positions of."""

    coco: Any
    """`hotcoco.COCOeval`: image i, category k; the ids of annotations and detections are their positions + 1."""
    image_ids: NDArray[np.int64]
    """`[I]`, ids of the annotation file."""
    annotation_rows: NDArray[np.int64]
    """`[G]`, rows of `data.boxes`."""
    result_rows: NDArray[np.int64]
    """`[D]`, rows of the results."""


def evaluate(data: CocoData, results: Results, image_ids: Sequence[int] | None = None) -> Metrics:
    """Score `results` against the annotations of `data` as COCO does: boxes as the file has them, crowds included.

    Arguments and errors are those of `run_evaluator`.
    """
    return metrics_of(run_evaluator(data, results, image_ids), data)


def metrics_of(evaluation: Evaluation, data: CocoData) -> Metrics:
    """COCO's numbers of an evaluation of `data`."""
    assert data.classes is not None
    numbers = evaluation.coco.get_results(per_class=True)
    per_class = (
        ClassMetric(category_id, name, numbers.get(f"AP/{index}"))
        for index, (category_id, name) in enumerate(zip(data.classes.ids, data.classes.names, strict=True))
    )
    return Metrics(**{name: numbers[name] for name in _AXES}, per_class=tuple(per_class))


def run_evaluator(data: CocoData, results: Results, image_ids: Sequence[int] | None = None) -> Evaluation:
    """Match `results` with the annotations of `data`, and accumulate.

    Annotations whose box is not finite are left out. Ties in score keep the order of `results` (images by ascending
    id). Detections of categories that the annotations do not define are left out, as pycocotools does. Annotations
    are numbered anew, so a file whose ids begin at 0 loses no match, which pycocotools takes for "unmatched".

    Args:
        data: the annotations.
        results: the detections; those of images outside `image_ids` are left out.
        image_ids: evaluate on these images alone; by default on all of `data`.

    Raises:
        DataError: results of an image that `data` does not have, or of none of its categories.
    """
    assert data.classes is not None
    _require_same_data(data, data.classes, results)
    images = np.unique(data.image_ids if image_ids is None else np.asarray(image_ids, dtype=np.int64))
    class_ids = np.asarray(data.classes.ids, dtype=np.int64)

    truth_images = positions(np.repeat(data.image_ids, np.diff(data.offsets)), images)
    truth = np.flatnonzero((truth_images >= 0) & np.isfinite(data.boxes).all(axis=1))
    found_images, found_classes = positions(results.image_ids, images), positions(results.category_ids, class_ids)
    found = np.flatnonzero((found_images >= 0) & (found_classes >= 0))

    # Positions serve as ids: hotcoco's rows are float64, which cannot hold each large id.
    ground_truth = hotcoco.COCO.from_arrays(
        [{"id": index} for index in range(len(images))],
        [{"id": index, "name": str(index)} for index in range(len(class_ids))],
        truth_images[truth],
        data.labels[truth],
        data.boxes[truth],
        area=data.areas[truth],
        iscrowd=data.crowd[truth],
    )
    rows = np.column_stack([found_images, results.xywh, results.scores, found_classes])[found]
    evaluator = hotcoco.COCOeval(ground_truth, ground_truth.load_res(rows), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summary_lines()  # fills the numbers without printing them
    return Evaluation(evaluator, images, truth, found)


def _require_same_data(data: CocoData, classes: ClassMap, results: Results) -> None:
    unknown = results.image_ids[positions(results.image_ids, data.image_ids) < 0]
    if len(unknown):
        raise DataError(
            f"Expected results of the annotated images, but image id {unknown[0]} is not in {data.source}: "
            "give the annotation file of the images that were predicted."
        )
    category_ids = np.asarray(classes.ids, dtype=np.int64)
    if len(results) and (positions(results.category_ids, category_ids) < 0).all():
        raise DataError(
            f"Expected results with the category ids of {data.source} ({_some(category_ids)}), but found only "
            f"{_some(np.unique(results.category_ids))}: give the annotation file that the model was trained for."
        )


def _some(values: NDArray[np.int64]) -> str:
    return ", ".join(map(str, values[:5])) + (" …" if len(values) > 5 else "")


def positions(values: NDArray[np.int64], table: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of `values` stands in `table` (without repeats, in any order), -1 where it does not."""
    if not len(table):
        return np.full(len(values), -1)
    order = np.argsort(table)
    places = order[np.searchsorted(table, values, sorter=order).clip(max=len(table) - 1)]
    return np.where(table[places] == values, places, -1)
