"""Pictures of a data set with their detections drawn in, as files."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image

from retinanet.boxes import from_xywh
from retinanet.data.annotations import CocoData
from retinanet.data.video import Video
from retinanet.errors import UsageError
from retinanet.files import atomic_write
from retinanet.predict.draw import draw_detections
from retinanet.predict.results import Results
from retinanet.types import ClassMap

DRAWN_SCORE = 0.3
"""Lowest score that is drawn into pictures: below it, boxes hide what is there."""
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def make_picture_folder(folder: Path) -> None:
    """Make `folder` where there is none. Raises `UsageError` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--draw {folder} cannot be made ({error.strerror}); name another folder.") from error


def require_no_original(data: CocoData, folder: Path) -> None:
    """Raise `UsageError` if a picture of `data` drawn into `folder` would take the place of one of the images."""
    root = os.path.realpath(folder)
    if isinstance(data, Video):
        originals, targets = {os.path.realpath(data.source)}, [str(drawn_video(data, Path(root)))]
    else:
        assert data.images_dir is not None
        images = os.path.realpath(data.images_dir)
        names = [data.file_names[index] for index in range(len(data))]
        places = [os.path.normpath(os.path.join(images, name)) for name in names]
        originals = {*places, *map(os.path.realpath, places)}  # links to images, and the images
        targets = [str(_place(Path(root), name)) for name in names]
    lost = next((target for target in targets if target in originals), None)
    if lost is not None:
        raise UsageError(f"--draw {folder} would overwrite the image {lost}; name a folder without images.")


def drawn_video(video: Video, folder: Path) -> Path:
    """The video in `folder` that shows what is found in `video`."""
    return folder / f"{video.source.stem}.mp4"


def draw_results(data: CocoData, index: int, results: Results, classes: ClassMap) -> Image.Image:
    """Image `index` of `data` with those of `results` that are its own and score at least `DRAWN_SCORE`."""
    found = results[results.image_ids == data.image_ids[index]]
    index_of = classes.index_of_id()
    labels = [index_of[category_id] for category_id in found.category_ids.tolist()]
    corners = from_xywh(torch.from_numpy(found.xywh))
    return draw_detections(data.read(index), corners, labels, found.scores, classes.names, DRAWN_SCORE)


def write_pictures(data: CocoData, indices: np.ndarray, results: Results, classes: ClassMap, folder: Path) -> None:
    """Write the pictures of images `indices` `[K]`, each under its own name below `folder`."""
    for index in indices.tolist():
        picture = draw_results(data, index, results, classes)
        target = _place(folder, data.file_names[index])
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            picture.save(temporary, quality=90)


def _place(folder: Path, file_name: str) -> Path:
    name = PurePath(file_name)
    # A name from the annotation file must not lead out of the folder.
    target = folder.joinpath(*(part for part in name.parts if part not in ("..", name.anchor)))
    return target if target.suffix.lower() in _ENDINGS else target.with_name(f"{target.name}.jpg")
