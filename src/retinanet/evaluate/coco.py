"""COCO's detection metrics (https://cocodataset.org/#detection-eval), computed by hotcoco, equal to pycocotools'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retinanet.data.annotations import CocoData
from retinanet.evaluate.evaluator import Evaluation, run_evaluator
from retinanet.predict.results import Results

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
