"""Memory stays flat, however many images a run goes through."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from command_line import Shapes
from retinanet.config import InferConfig
from retinanet.data.annotations import CocoData, FlatStrings
from retinanet.data.folder import images_only
from retinanet.predict import infer, work
from retinanet.predict.predictor import Predictor
from retinanet.types import ClassMap, Detections

IMAGES, WARM, DETECTIONS = 12_000, 3_000, 100


class BlackPictures(CocoData):
    """No files, so that the test measures the run and not the disk."""

    def read(self, index: int) -> Tensor:
        return torch.zeros(32, 32, 3, dtype=torch.uint8).permute(2, 0, 1)


class SteadyRuntime:
    """As many detections as there can be. Notes how much memory the process holds."""

    classes = ClassMap((3, 17), ("cat", "dog"))
    resize = max_size = 32
    canvas = None
    batch = None
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.images = 0
        self.resident: list[tuple[int, int]] = []

    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        count = len(images)
        self.images += count
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.resident.append((self.images, pages * os.sysconf("SC_PAGE_SIZE")))
        scores = torch.linspace(1, 0.1, DETECTIONS).repeat(count, 1)
        boxes = torch.rand(count, DETECTIONS, 2, 2).sort(dim=2).values.flatten(2) * 32
        return Detections(scores, boxes, torch.randint(0, 2, scores.shape), torch.full((count,), DETECTIONS))


def test_memory_stays_flat(shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = vars(images_only(shapes.val_images)) | {
        "image_ids": np.arange(IMAGES),
        "file_names": FlatStrings([f"{index}.png" for index in range(IMAGES)]),
        "sizes": np.full((IMAGES, 2), 32),
        "offsets": np.zeros(IMAGES + 1, np.int64),
    }
    names = {field.name for field in dataclasses.fields(CocoData)}
    data = BlackPictures(**{name: value for name, value in values.items() if name in names})
    runtime = SteadyRuntime()
    config = InferConfig(batch=50, workers=0, device="cpu")
    monkeypatch.setattr(infer, "images_only", lambda _: data)
    monkeypatch.setattr(work, "load", lambda *_, **__: Predictor(runtime, config))
    model, output = tmp_path / "model.pth", tmp_path / "detections.jsonl"
    model.touch()
    infer.run_inference(model, images=tmp_path, annotations=None, output=output, draw=None, config=config)

    with output.open() as file:  # nothing is missing
        assert sorted(json.loads(line)["image_id"] for line in file) == list(range(IMAGES))
    warm = next(size for images, size in runtime.resident if images >= WARM)
    growth = max(size for images, size in runtime.resident if images >= WARM) - warm
    kept = (IMAGES - WARM) * DETECTIONS * 56  # bytes of the results as bare numbers
    assert growth < kept / 3
    output.unlink()
