"""Is the artifact the checkpoint? Both detect on the same canvases, and their detections are matched."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retinanet.data.batching import assemble
from retinanet.data.folder import images_only
from retinanet.data.images import read_image
from retinanet.data.synthetic import make_dataset
from retinanet.errors import ExportError
from retinanet.export.compare import TOLERANCES, Differences
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.base import Runtime
from retinanet.preprocess import fit_to_canvas
from retinanet.types import Batch, Detections

PICTURES = 8
"""So many pictures are compared: more take longer than they tell."""


def verification_pictures(images: Path | None, canvas: tuple[int, int]) -> list[Tensor]:
    """uint8 `[3, h, w]` each: at most `PICTURES` of `images`, or made-up ones. Raises `DataError` as `read_image`."""
    return list(_made_up(canvas) if images is None else _read(images))


def verify(runtime: Runtime, reference: Detector, record: ArtifactRecord, pictures: list[Tensor]) -> list[str]:
    """Compare on `pictures`: on all in the usual batch, on some in the smallest and the largest.

    Returns what was found, as lines to print. Raises `ExportError` if that is past the tolerance of the precision.
    """
    expected = [_by_checkpoint(reference, _batch([picture], 1, record)) for picture in pictures]
    differences = Differences(TOLERANCES[record.precision], record.postprocess.threshold)
    for size in sorted(set(record.batch)):
        end = len(pictures) if size == record.batch[1] else min(size, len(pictures))
        for start in range(0, end, size):
            found = _by_artifact(runtime, _batch(pictures[start : start + size], size, record))
            if len(found.scores) != size:
                raise ExportError(
                    f"The artifact gives results of {len(found.scores)} images for a batch of {size} and was removed; "
                    f"export it for one batch size: --batch {size} {size} {size}."
                )
            for row, of_picture in enumerate(expected[start : start + size]):
                differences.add(of_picture, Detections(*(column[row : row + 1] for column in found)))
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
def _by_checkpoint(reference: Detector, batch: Batch) -> Detections:
    batch = batch.to(reference.network.cell_anchors.device)
    return Detections(*(column.cpu() for column in reference(batch.images, batch.image_sizes)))


def _by_artifact(runtime: Runtime, batch: Batch) -> Detections:
    batch = batch.to(runtime.device)
    return Detections(*(column.cpu() for column in runtime(batch.images, batch.image_sizes)))


def _batch(pictures: list[Tensor], size: int, record: ArtifactRecord) -> Batch:
    """The pictures on the canvas, filled with blank slots up to `size`."""
    placed = [fit_to_canvas(picture, record.resize, record.max_size, record.canvas) for picture in pictures]
    return assemble(record.canvas, [*placed, *[None] * (size - len(placed))])


def _read(images: Path) -> Iterator[Tensor]:
    """At most `PICTURES` of the images, spread evenly over them."""
    data = images_only(images)
    for index in np.linspace(0, len(data) - 1, min(PICTURES, len(data))).round().astype(int).tolist():
        yield read_image(data.image_path(index))


def _made_up(canvas: tuple[int, int]) -> Iterator[Tensor]:
    """Pictures of shapes: some fill the canvas, others only its height or its width."""
    height, width = canvas
    aspects = (width / height, 1.0, 0.5 * width / height, 2.0 * width / height)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        make_dataset(pictures, PICTURES, min(canvas), seed=0, aspects=aspects, empty=0)
        for path in sorted(pictures.iterdir()):
            yield read_image(path)
