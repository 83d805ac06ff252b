"""hotcoco fed with our arrays: detections matched with annotations as COCO does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from retinanet.data.annotations import CocoData
from retinanet.errors import DataError
from retinanet.predict.results import Results
from retinanet.types import ClassMap


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
