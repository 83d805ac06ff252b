"""Is the artifact the checkpoint? Both detect on the same canvases, and their boxes are matched."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retinanet.config import ExportPrecision
from retinanet.data.batching import Sample, assemble
from retinanet.data.folder import images_only
from retinanet.data.images import read_image
from retinanet.data.synthetic import make_dataset
from retinanet.errors import DataError, ExportError
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.base import Runtime
from retinanet.preprocess import fit_to_canvas
from retinanet.types import Batch, Detections

PICTURES = 8
"""So many pictures are compared: more take longer than they tell."""


@dataclass(frozen=True)
class Tolerance:
    """How far an artifact may be from its checkpoint."""

    score: float
    """Largest difference of two scores of one box."""
    box: float
    """Largest difference of two edges, as a part of the box's longer side or of 32 pixels, whichever is more."""
    unmatched: float
    """Part of the detections that may have no partner; those at a threshold's edge don't count."""


TOLERANCES: dict[ExportPrecision, Tolerance] = {
    "fp32": Tolerance(score=1e-4, box=1e-3, unmatched=0.005),
    "fp16": Tolerance(score=0.02, box=0.05, unmatched=0.05),
}


@dataclass
class Differences:
    """What the comparison of some pictures found."""

    detections: int = 0
    unmatched: int = 0
    score: float = 0.0
    box: float = 0.0
    """As `Tolerance.box`."""

    def add(self, expected: Detections, found: Detections, row: int, tolerance: Tolerance, threshold: float) -> None:
        """Compare the detections of picture `row`, each with the nearest of its class."""
        expected_count, found_count = int(expected.count[row]), int(found.count[row])
        boxes, others = expected.boxes[row, :expected_count], found.boxes[row, :found_count]
        scores, other_scores = expected.scores[row, :expected_count], found.scores[row, :found_count]
        same = expected.labels[row, :expected_count, None] == found.labels[row, None, :found_count]
        side = (boxes[:, 2:] - boxes[:, :2]).amax(-1).clamp(min=32)
        box = (boxes[:, None] - others).abs().amax(-1) / side[:, None]  # [E, F]
        score = (scores[:, None] - other_scores).abs()
        near = same & (box <= tolerance.box) & (score <= tolerance.score)
        # Whatever lies within the tolerance of the threshold, or of the last of a full list, may be on either side.
        full = expected_count == expected.scores.shape[1]
        edge = max(threshold, float(scores[-1]) if full else 0.0) + tolerance.score
        lost, added = ~near.any(1) & (scores > edge), ~near.any(0) & (other_scores > edge)
        self.detections += expected_count
        self.unmatched += max(int(lost.sum()), int(added.sum()))
        if near.any():
            nearest = torch.where(near, box + score, torch.inf).min(1)
            matched = nearest.values < torch.inf
            rows, partners = torch.arange(expected_count)[matched], nearest.indices[matched]
            self.score = max(self.score, float(score[rows, partners].max()))
            self.box = max(self.box, float(box[rows, partners].max()))


def verify(runtime: Runtime, reference: Detector, record: ArtifactRecord, images: Path | None) -> list[str]:
    """Compare on pictures of `images`, or on made-up ones, in the smallest, usual and largest batch; say what differs.

    Raises:
        ExportError: the differences are past the tolerance of the record's precision.
        DataError: no image can be read.
    """
    tolerance = TOLERANCES[record.precision]
    pictures = list(_made_up(record.canvas) if images is None else _read(images))
    whole = _batch(pictures, len(pictures), record)
    device = reference.network.cell_anchors.device
    expected = _join([_detect(reference, _slot(whole, slot).to(device)) for slot in range(len(pictures))])
    differences = Differences()
    for size in sorted(set(record.batch)):
        # Every picture once in the usual batch, and one batch of the smallest and the largest.
        rounds = -(-len(pictures) // size) if size == record.batch[1] else 1
        for start in range(0, rounds * size, size):
            chunk = pictures[start : start + size]
            found = runtime(*(column.to(runtime.device) for column in _batch(chunk, size, record)[:2]))
            found = Detections(*(column.cpu() for column in found))
            for row in range(len(chunk)):
                part = Detections(*(column[start : start + len(chunk)] for column in expected))
                differences.add(part, found, row, tolerance, record.postprocess.threshold)
    return _judge(differences, tolerance, len(pictures), record)


@torch.inference_mode()
def _detect(reference: Detector, batch: Batch) -> Detections:
    return Detections(*(column.cpu() for column in reference(batch.images, batch.image_sizes)))


def _join(parts: list[Detections]) -> Detections:
    return Detections(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _slot(batch: Batch, slot: int) -> Batch:
    return Batch(*(column[slot : slot + 1] for column in batch))


def _batch(pictures: list[Tensor], size: int, record: ArtifactRecord) -> Batch:
    """The pictures on the canvas, filled with blank slots up to `size`."""
    none = np.empty(0, np.int64)
    samples: list[Sample | None] = [
        Sample(fit_to_canvas(picture, record.resize, record.max_size, record.canvas), 0, np.empty((0, 4)), none, none)
        for picture in pictures
    ]
    return assemble(record.canvas, samples + [None] * (size - len(samples)))


def _read(images: Path) -> list[Tensor]:
    """At most `PICTURES` of the images, spread evenly over them."""
    data = images_only(images)
    chosen = np.linspace(0, len(data) - 1, min(PICTURES, len(data))).round().astype(int)
    pictures = []
    for index in chosen.tolist():
        try:
            pictures.append(read_image(data.image_path(index)))
        except DataError as error:
            reason = error
    if not pictures:
        raise DataError(f"None of the images of --verify-images can be used; the last: {reason}")
    return pictures


def _made_up(canvas: tuple[int, int]) -> Iterator[Tensor]:
    """Pictures of shapes: some fill the canvas, others only its height or width."""
    ratio = canvas[1] / canvas[0]
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(
            Path(folder) / "made-up", PICTURES, min(canvas), seed=0, aspects=(ratio, 1.0, ratio / 2, ratio * 2), empty=0
        )
        for path in sorted((Path(folder) / "made-up").iterdir()):
            yield read_image(path)


def _judge(differences: Differences, tolerance: Tolerance, pictures: int, record: ArtifactRecord) -> list[str]:
    allowed = tolerance.unmatched * differences.detections
    found = (
        f"{pictures} pictures, {differences.detections} detections, {differences.unmatched} without a partner "
        f"(at most {allowed:.0f} may be); scores differ by up to {differences.score:.1e} "
        f"(at most {tolerance.score:g}), boxes by up to {differences.box:.1e} of their size (at most {tolerance.box:g})"
    )
    if differences.unmatched > allowed:
        raise ExportError(
            f"The artifact detects otherwise than the checkpoint and was removed: {found}; "
            "try --precision fp32, or report this."
        )
    lines = [f"  verified against the checkpoint: {found}"]
    if not differences.detections:
        lines.append(
            "  The checkpoint found nothing in these pictures, so little was compared; "
            "give pictures of your own by --verify-images."
        )
    return lines
