"""Annotation files for the doctor's tests, from a few numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinanet.data.coco import CocoData, read_annotations


def write_file(
    path: Path, sizes: Sequence[tuple[int, int]], boxes: Sequence[tuple[int, int, Sequence[float]]], classes: int = 2
) -> Path:
    """Images 1, 2, … of `sizes` (h, w) and annotations 1, 2, … of `boxes` (image, category, bbox)."""
    document: dict[str, Any] = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": height, "width": width}
            for i, (height, width) in enumerate(sizes, 1)
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": list(bbox)}
            for i, (image, category, bbox) in enumerate(boxes, 1)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, classes + 1)],
    }
    path.write_text(json.dumps(document))
    return path


def coco(
    folder: Path, sizes: Sequence[tuple[int, int]], boxes: Sequence[tuple[int, int, Sequence[float]]], classes: int = 2
) -> CocoData:
    """The same, read back without pictures."""
    return read_annotations(write_file(folder / "file.json", sizes, boxes, classes), None)
