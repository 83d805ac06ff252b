"""What an export costs in average precision, on annotated images."""

from __future__ import annotations

from pathlib import Path

from retinanet.config import PredictConfig
from retinanet.data.annotations import CocoData
from retinanet.data.classes import require_same_classes
from retinanet.data.coco import read_annotations
from retinanet.device import choose_workers
from retinanet.errors import DataError, ExportError
from retinanet.evaluate.coco import evaluate
from retinanet.export.tolerance import TOLERANCES
from retinanet.predict.dataset import collect_results, tell_dropped_images
from retinanet.predict.detector import Detector
from retinanet.predict.predictor import Predictor
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.base import Runtime
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.types import ClassMap


def annotated_images(annotations: Path, images: Path, classes: ClassMap) -> CocoData:
    """The images to score on. Raises `DataError` when they cannot be used, or no object is annotated in them."""
    data = read_annotations(annotations, images)
    require_same_classes(data, classes)
    tell_dropped_images(data)
    if not len(data.boxes):
        raise DataError(f"Expected annotated objects to measure AP with, but {annotations} has none; give others.")
    return data


def require_accuracy(runtime: Runtime, reference: Detector, record: ArtifactRecord, data: CocoData) -> str:
    """Score checkpoint and artifact on the same canvas; returns the line to print.

    Raises `ExportError` when the artifact's AP is lower by more than the tolerance of its precision.
    """
    network = reference.network
    device = network.cell_anchors.device
    checkpoint = TorchRuntime(network, postprocess=reference.postprocess, device=device, precision="fp32")
    before = average_precision(checkpoint, record, data, "Checkpoint")
    after = average_precision(runtime, record, data, "Artifact")
    allowed = TOLERANCES[record.precision].ap
    line = (
        f"AP on {len(data)} images of {data.source}: checkpoint {100 * before:.2f}, artifact {100 * after:.2f} "
        f"(may lose {100 * allowed:g})"
    )
    if before - after > allowed:
        remedy = "try --precision fp16" + (", or more calibration images" if record.quantised else "")
        raise ExportError(f"The artifact is less accurate than its checkpoint and was removed: {line}; {remedy}.")
    return f"{line}."


def average_precision(runtime: Runtime, record: ArtifactRecord, data: CocoData, title: str) -> float:
    """COCO's AP, 0…1, with every image on the record's canvas."""
    predictor = Predictor(runtime, PredictConfig(canvas=record.canvas))
    results, _ = collect_results(predictor, data, workers=choose_workers(None), title=title)
    return evaluate(data, results).AP
