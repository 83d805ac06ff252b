"""Is the artifact the checkpoint? Both detect on the same canvases, and their detections are matched."""

from __future__ import annotations

import torch
from torch import Tensor

from retinanet.errors import ExportError
from retinanet.export.compare import Differences
from retinanet.export.pictures import batch_of
from retinanet.export.tolerance import TOLERANCES
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.base import Runtime
from retinanet.types import Batch, Detections


def verify(runtime: Runtime, reference: Detector, record: ArtifactRecord, pictures: list[Tensor]) -> list[str]:
    """Compare on `pictures`: on all in the usual batch, on some in the smallest and the largest.

    Returns what was found, as lines to print. Raises `ExportError` if that is past the tolerance of the precision.
    """
    expected = [_by_checkpoint(reference, batch_of([picture], 1, record)) for picture in pictures]
    differences = Differences(TOLERANCES[record.precision], record.postprocess.threshold)
    for size in sorted(set(record.batch)):
        end = len(pictures) if size == record.batch[1] else min(size, len(pictures))
        for start in range(0, end, size):
            found = _by_artifact(runtime, batch_of(pictures[start : start + size], size, record))
            if len(found.scores) != size:
                raise ExportError(
                    f"The artifact gives results of {len(found.scores)} images for a batch of {size} and was removed; "
                    f"export it for one batch size: --batch {size} {size} {size}."
                )
            for row, (of_picture, candidates) in enumerate(expected[start : start + size]):
                of_artifact = Detections(*(column[row : row + 1] for column in found))
                differences.add_with_ties(of_picture, of_artifact, candidates, record.postprocess.nms)
    if differences.unmatched > differences.allowed:
        raise ExportError(
            f"The artifact detects otherwise than its checkpoint and was removed: on {len(pictures)} pictures "
            f"{differences}; try another --precision or --size."
        )
    lines = [f"Verified against the checkpoint on {len(pictures)} pictures: {differences}."]
    if not differences.detections:
        lines.append("The checkpoint found nothing in them, so little was compared: give others by --verify-images.")
    return lines


@torch.inference_mode()
def _by_checkpoint(reference: Detector, batch: Batch) -> tuple[Detections, Detections]:
    """Its detections, and the candidates that they were chosen from."""
    batch = batch.to(reference.network.cell_anchors.device)
    scores, boxes, labels = reference.candidates(batch.images, batch.image_sizes)
    candidates = Detections(scores, boxes, labels, torch.full((len(scores),), scores.shape[1]))
    detections = reference.suppress(scores, boxes, labels)
    return _on_cpu(detections), _on_cpu(candidates)


def _by_artifact(runtime: Runtime, batch: Batch) -> Detections:
    batch = batch.to(runtime.device)
    return _on_cpu(runtime(batch.images, batch.image_sizes))


def _on_cpu(detections: Detections) -> Detections:
    return Detections(*(column.cpu() for column in detections))
