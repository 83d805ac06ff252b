"""An artifact's detections beside its checkpoint's: on the same canvases, or made by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.base import Runtime
from retinanet.types import Detections


def canvases(images: list[Tensor], canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pictures `[3, h, w]` at the top left of canvases whose rest is noise, which must not be seen; and their sizes."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(0, 256, (len(images), 3, *canvas), dtype=torch.uint8, generator=generator)
    sizes = [(min(image.shape[1], canvas[0]), min(image.shape[2], canvas[1])) for image in images]
    for slot, (image, (height, width)) in enumerate(zip(images, sizes, strict=True)):
        batch[slot, :, :height, :width] = image[:, :height, :width]
    return batch, torch.tensor(sizes)


def assert_same_detections(runtime: Runtime, detector: Detector, images: Tensor, image_sizes: Tensor) -> Detections:
    """The same boxes and classes in the same order, scores within 1e-4; returns them."""
    with torch.inference_mode():
        expected = detector(images, image_sizes)
    found = runtime(images, image_sizes)
    assert torch.equal(found.count, expected.count)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-2)
    assert int(found.count.sum()) > 0
    return found


def detections(*rows: tuple[float, float, int], slots: int = 10) -> Detections:
    """Of one picture. Rows of score, left edge and label; boxes are 50 × 50."""
    missing = slots - len(rows)
    boxes = [[left, 10.0, left + 50, 60.0] for _, left, _ in rows] + [[0.0] * 4] * missing
    return Detections(
        torch.tensor([[*(score for score, _, _ in rows), *[0.0] * missing]]),
        torch.tensor([boxes]),
        torch.tensor([[*(label for _, _, label in rows), *[-1] * missing]]),
        torch.tensor([len(rows)]),
    )
