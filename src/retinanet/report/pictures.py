"""Cards of images: what is annotated beside what is detected."""

from __future__ import annotations

import numpy as np
from PIL import Image

from retinanet.data.annotations import CocoData
from retinanet.data.images import read_image
from retinanet.errors import DataError
from retinanet.evaluate.evaluator import positions
from retinanet.page import Card, Picture, Tags
from retinanet.page.picture import LARGEST_SIDE
from retinanet.predict.draw import draw_detections
from retinanet.predict.results import Results
from retinanet.report.figures import Figures
from retinanet.report.suspects import Suspect

_LEAST_CROP = 64  # pixels: around a tiny object, something must be there to recognise
_SMALLEST_SHOWN = 256
_PROFILES = {"fn_heavy": "mostly missed", "fp_heavy": "mostly false", "mixed": "missed and false", "perfect": "perfect"}


def image_card(data: CocoData, figures: Figures, image: int) -> Card:
    """An image with its annotations and its confident detections."""
    assert data.classes is not None
    image_id = int(data.image_ids[image])
    summary = figures.diagnostics["img_summary"][int(np.searchsorted(figures.evaluation.image_ids, image_id))]
    rows = slice(data.offsets[image], data.offsets[image + 1])
    detected = figures.confident.category_ids[figures.confident.image_ids == image_id]
    ids = {*np.asarray(data.classes.ids)[data.labels[rows]].tolist(), *detected.tolist()}
    names = [name for id_, name in zip(data.classes.ids, data.classes.names, strict=True) if id_ in ids]
    crowds = int(data.crowd[rows].sum())
    ignored = f", {crowds} annotated as crowd (ignored)" if crowds else ""
    counts = f"{summary['tp']} right, {summary['fn']} missed, {summary['fp']} false{ignored}"
    return Card(
        title=data.file_names[image],
        pictures=_pair(data, figures.confident, image, None),
        lines=[f"{counts}; F1 {summary['f1']:.2f}; image id {image_id}"],
        tags=Tags(tuple(names), _PROFILES[summary["error_profile"]]),
    )


def suspect_card(data: CocoData, sure: Results, results: Results, suspect: Suspect) -> Card:
    """The surroundings of a suspect with the `sure` ones of the results."""
    around = data.boxes[suspect.annotation] if suspect.detection is None else results.xywh[suspect.detection]
    sentence, tags = describe(data, results, suspect)
    ids = "" if suspect.annotation is None else f"annotation id {data.annotation_ids[suspect.annotation]}, "
    return Card(
        title=data.file_names[suspect.image],
        pictures=_pair(data, sure, suspect.image, around),
        lines=[sentence, f"{ids}image id {data.image_ids[suspect.image]}"],
        tags=tags,
    )


def describe(data: CocoData, results: Results, suspect: Suspect) -> tuple[str, Tags]:
    """A sentence about a suspect, and what it is filtered by."""
    assert data.classes is not None
    annotated = None if suspect.annotation is None else data.classes.names[data.labels[suspect.annotation]]
    if suspect.detection is None:
        assert annotated is not None
        return f"{annotated} annotated, nothing detected", Tags((annotated,), suspect.kind)
    label = data.classes.index_of_id()[int(results.category_ids[suspect.detection])]
    detected, score = data.classes.names[label], float(results.scores[suspect.detection])
    names = (detected,) if annotated is None else (annotated, detected)
    sentence = f"{detected} detected with {score:.2f}, {annotated or 'nothing'} annotated"
    return sentence, Tags(names, suspect.kind, score)


def _pair(data: CocoData, results: Results, image: int, around: np.ndarray | None) -> list[Picture]:
    """Annotations and detections drawn, in the whole image or in the surroundings of box `around` (x, y, w, h)."""
    assert data.classes is not None
    try:
        picture = Image.fromarray(read_image(data.image_path(image)).permute(1, 2, 0).numpy())
    except DataError:
        return []  # predicting has told it
    region = np.array([0, 0, *picture.size]) if around is None else _surroundings(around, picture.size)
    shown = picture.crop(tuple(region.tolist()))
    scale = min(LARGEST_SIDE, max(shown.size[0], shown.size[1], _SMALLEST_SHOWN)) / max(shown.size)
    shown = shown.resize([max(1, round(side * scale)) for side in shown.size], Image.Resampling.LANCZOS)

    rows = slice(data.offsets[image], data.offsets[image + 1])
    of_image = results[results.image_ids == data.image_ids[image]]
    labels = positions(of_image.category_ids, np.asarray(data.classes.ids))
    pair = []
    for caption, xywh, classes, scores in (
        ("Annotated", data.boxes[rows], data.labels[rows], None),
        ("Detected", of_image.xywh, labels, of_image.scores),
    ):
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        inside = (corners[:, :2] < region[2:]).all(axis=1) & (corners[:, 2:] > region[:2]).all(axis=1)
        corners = (corners[inside] - np.tile(region[:2], 2)) * scale
        kept = None if scores is None else scores[inside]
        drawn = draw_detections(shown, corners, classes[inside], kept, data.classes.names)
        pair.append(Picture.of(drawn, f"{caption}: {inside.sum()} boxes", caption))
    return pair


def _surroundings(xywh: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The box with at least as much again on each side, as whole corners within the picture of `size` (w, h)."""
    centre, half = xywh[:2] + xywh[2:] / 2, np.maximum(xywh[2:] * 1.5, _LEAST_CROP / 2)
    half = np.maximum(half, half.max() / 2)  # no strip, in which nothing is recognised
    near = np.clip(np.floor(centre - half), 0, np.array(size) - 1)
    far = np.clip(np.ceil(centre + half), near + 1, size)
    return np.concatenate([near, far]).astype(int)
