"""Annotations and results with every kind of error in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from retinanet.data.annotations import CocoData
from retinanet.data.coco import read_annotations
from retinanet.predict.results import Results, read_results

CATEGORY_IDS = (3, 17, 18, 90)
SIDE = 400


def write(folder: Path, annotations: list[dict[str, Any]], results: list[dict[str, Any]], images: int = 0) -> Path:
    """annotations.json and results.json; image ids 100, 101, … as far as they are used, or `images` of them."""
    used = {each["image_id"] for each in (*annotations, *results)} | set(range(100, 100 + images))
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in sorted(used)],
        "categories": [{"id": id_, "name": f"class {id_}"} for id_ in CATEGORY_IDS],
        "annotations": [
            {"id": 7 * index + 1, "iscrowd": 0, "area": each["bbox"][2] * each["bbox"][3], **each}
            for index, each in enumerate(annotations)
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def read(folder: Path) -> tuple[CocoData, Results]:
    return read_annotations(folder / "annotations.json", images=None), read_results(folder / "results.json")


def random_case(folder: Path, images: int = 40, seed: int = 0) -> Path:
    """Objects of all sizes and crowds; of the detections some are right, shifted, of another class, doubled, made up.

    The last class is never annotated, the third never detected rightly.
    """
    random = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def detect(image_id: int, category_id: int, box: np.ndarray, score: float) -> None:
        results.append(
            {"image_id": image_id, "category_id": category_id, "bbox": box.round(2).tolist(), "score": score}
        )

    for image_id in range(100, 100 + images):
        for _ in range(random.poisson(5)):
            side = np.exp(random.uniform(2.5, 5, 2))
            box = np.concatenate([random.uniform(0, SIDE - side), side]).round(2)
            category = int(random.choice(CATEGORY_IDS[:3]))
            crowd = int(random.random() < 0.08)
            annotations.append({"image_id": image_id, "category_id": category, "bbox": box.tolist(), "iscrowd": crowd})
            if random.random() < 0.7:
                noise = random.normal(0, random.choice([0.03, 0.2]), 4) * np.tile(side, 2)
                shown = int(random.choice(CATEGORY_IDS)) if random.random() < 0.2 else category
                if shown != CATEGORY_IDS[2]:
                    detect(image_id, shown, np.maximum(box + noise, 1), round(random.beta(4, 2), 3))
            if random.random() < 0.1 and category != CATEGORY_IDS[2]:
                detect(image_id, category, box + 0.5, round(random.beta(2, 4), 3))
        for _ in range(random.poisson(2)):
            detect(image_id, int(random.choice(CATEGORY_IDS)), random.uniform(10, 60, 4), round(random.beta(2, 4), 3))
    return write(folder, annotations, results, images)
