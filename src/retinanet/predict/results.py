"""Detections as COCO results, in memory: what is written into files, read from them, and evaluated."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from retinanet import boxes
from retinanet.errors import DataError
from retinanet.types import ClassMap, Detections

BOX_DECIMALS = 3
SCORE_DECIMALS = 6
_BLANK = -1


@dataclass(frozen=True)
class Results:
    """R detections of many images in the order in which they were found, as COCO's results file lists them.

    Their numbers are rounded when they are made from `Detections`, so metrics of these and of the file are the same.
    """

    image_ids: NDArray[np.int64]
    """`[R]`"""
    category_ids: NDArray[np.int64]
    """`[R]`, ids of the annotation file, not class indices."""
    xywh: NDArray[np.float64]
    """`[R, 4]`, COCO's x, y, width, height in pixels of the original image."""
    scores: NDArray[np.float64]
    """`[R]`, 0…1."""

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Results:
        """Some of them, by a mask `[R]` or by row numbers."""
        return Results(self.image_ids[rows], self.category_ids[rows], self.xywh[rows], self.scores[rows])


def to_results(detections: Detections, image_ids: Tensor, classes: ClassMap) -> Results:
    """The used rows of `detections` (boxes in original pixels) as COCO results; those of blank slots are dropped.

    `image_ids` int64 `[N]`, -1 for a blank slot. Boxes are rounded to 0.001 pixels, scores to 0.000001.
    """
    rows = np.arange(detections.scores.shape[1])
    counts, ids = detections.count.cpu().numpy(), image_ids.cpu().numpy()
    used = (rows < counts[:, None]) & (ids != _BLANK)[:, None]
    xywh = boxes.to_xywh(detections.boxes.cpu().double()).numpy()[used]
    return Results(
        image_ids=np.broadcast_to(ids[:, None], used.shape)[used],
        category_ids=np.asarray(classes.ids, dtype=np.int64)[detections.labels.cpu().numpy()[used]],
        xywh=xywh.round(BOX_DECIMALS),
        scores=detections.scores.cpu().double().numpy()[used].round(SCORE_DECIMALS),
    )


def concatenate(parts: Sequence[Results]) -> Results:
    """All results of `parts`, in their order; none of none."""
    return Results(
        image_ids=np.concatenate([np.empty(0, np.int64), *(part.image_ids for part in parts)]),
        category_ids=np.concatenate([np.empty(0, np.int64), *(part.category_ids for part in parts)]),
        xywh=np.concatenate([np.empty((0, 4)), *(part.xywh for part in parts)]),
        scores=np.concatenate([np.empty(0), *(part.scores for part in parts)]),
    )


def read_results(path: str | Path) -> Results:
    """Read a COCO results file: a JSON list of `image_id`, `category_id`, `bbox` (x, y, width, height) and `score`.

    Raises:
        DataError: the file is missing, is not JSON or not such a list; the message names the entry.
    """
    try:
        entries = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read the results {path}: {error.strerror}; check the path.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"Expected COCO results (a JSON list), but {path} is not JSON: {error}.") from error
    if not isinstance(entries, list):
        raise DataError(
            f"Expected COCO results (a JSON list of detections), but {path} holds {reprlib.repr(entries)}: "
            "give the file that `retinanet infer --output` writes."
        )
    for index, entry in enumerate(entries):
        fault = _fault(entry)
        if fault:
            raise DataError(f"Expected a COCO detection at entry {index} (from 0) of {path}, but {fault}: correct it.")
    return Results(
        image_ids=np.array([entry["image_id"] for entry in entries], dtype=np.int64),
        category_ids=np.array([entry["category_id"] for entry in entries], dtype=np.int64),
        xywh=np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4),
        scores=np.array([entry["score"] for entry in entries], dtype=np.float64),
    )


def _fault(entry: Any) -> str | None:
    """What keeps `entry` from being a COCO detection, as the end of a sentence."""
    if not isinstance(entry, dict):
        return f"it is {reprlib.repr(entry)}"
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in entry:
            return f'it has no "{key}"'
    for key in ("image_id", "category_id"):
        if type(entry[key]) is not int or abs(entry[key]) >= 1 << 63:
            return f'its "{key}" is {reprlib.repr(entry[key])}, not an integer'
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)) or min(box[2:]) < 0:
        return f'its "bbox" is {reprlib.repr(box)}, not x, y, width, height'
    if not _is_finite(entry["score"]):
        return f'its "score" is {reprlib.repr(entry["score"])}, not a number'
    return None


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300
