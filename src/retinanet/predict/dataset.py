"""From a data set to results, batch by batch: what `retinanet infer` and each validation do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePath

from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from retinanet.data.annotations import CocoData
from retinanet.data.images import read_image
from retinanet.data.sampler import PredictPlan
from retinanet.data.torch_loader import TorchLoader
from retinanet.errors import UsageError
from retinanet.files import atomic_write, require_writable
from retinanet.predict.draw import draw_detections
from retinanet.predict.predictor import Predictor
from retinanet.predict.results import Results, concatenate, results_writer, to_results, write_image_list
from retinanet.types import Detections

DRAWN_SCORE = 0.3
"""Lowest score that is drawn into pictures: below it, boxes hide what is there."""


def predict_dataset(
    predictor: Predictor, data: CocoData, *, workers: int, title: str, rank: int = 0, world: int = 1
) -> Iterator[tuple[Tensor, Detections]]:
    """Image ids `[N]` (-1: blank slot) and detections in original pixels of each batch; every image comes once.

    Of `world` ranks, each takes its share of the batches. Unreadable images are told on stderr, progress is by rank 0.

    Raises:
        DataError: no image can be read (by the only rank; a share of several may hold none).
    """
    canvas_of_image, canvases = predictor.group_by_canvas(data.sizes)
    plan = PredictPlan(canvas_of_image, canvases, predictor.batch, rank, world)
    loader = TorchLoader(data, plan, predictor.resize, predictor.max_size, workers=workers, shared=world > 1)
    console = Console(stderr=True, soft_wrap=True)
    with Progress(console=console, transient=True, disable=rank > 0 or not console.is_terminal) as progress:
        task = progress.add_task(title, total=len(data) // world)
        for batch in loader:
            yield batch.image_ids, predictor.run(batch)
            progress.update(task, advance=int((batch.image_ids >= 0).sum()))
    for sentence in loader.broken.values():
        console.print(f"Left out: {sentence}", markup=False, highlight=False)


def collect_results(predictor: Predictor, data: CocoData, *, workers: int, title: str) -> Results:
    """All results of `predict_dataset`."""
    batches = predict_dataset(predictor, data, workers=workers, title=title)
    return concatenate([to_results(detections, image_ids, predictor.classes) for image_ids, detections in batches])


def tell_dropped_images(data: CocoData) -> None:
    """Say on stderr how many images `data` had to leave out when it was read, and why the first."""
    if data.dropped_images:
        print(
            f"Left out: {len(data.dropped_images)} images; the first: {data.dropped_images[0].detail}", file=sys.stderr
        )


def run_inference(
    predictor: Predictor, data: CocoData, *, output: Path, draw: Path | None, workers: int, keep: bool
) -> Results | None:
    """Write results, and pictures where `draw` names a folder; return all results where they are to be kept.

    Raises:
        UsageError: `output` or `draw` cannot be written.
        DataError: no image can be read.
    """
    require_writable(output)
    if draw is not None:
        _make_folder(draw)
    tell_dropped_images(data)
    index_of_id = {image_id: index for index, image_id in enumerate(data.image_ids.tolist())}
    kept: list[Results] = []
    with ExitStack() as stack:
        write = stack.enter_context(results_writer(output))
        for image_ids, detections in predict_dataset(predictor, data, workers=workers, title="Detecting"):
            found = Detections(*(column.cpu() for column in detections))
            results = to_results(found, image_ids, predictor.classes)
            write(results)
            if keep:
                kept.append(results)
            if draw is not None:
                for row, image_id in enumerate(image_ids.tolist()):
                    if image_id >= 0:
                        _draw(predictor, data, index_of_id[image_id], found, row, draw)
    if data.classes is None:
        write_image_list(output, _image_list(data), predictor.classes)
    return concatenate(kept) if keep else None


def _image_list(data: CocoData) -> Iterator[dict[str, int | str]]:
    for index, (image_id, (height, width)) in enumerate(zip(data.image_ids.tolist(), data.sizes.tolist(), strict=True)):
        yield {"id": image_id, "file_name": data.file_names[index], "width": width, "height": height}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--draw {folder} cannot be made ({error.strerror}); name another folder.") from error


def _draw(predictor: Predictor, data: CocoData, index: int, found: Detections, row: int, folder: Path) -> None:
    """One picture, under its own name below `folder`."""
    picture = draw_detections(
        read_image(data.image_path(index)),
        found.boxes[row],
        found.labels[row],
        found.scores[row],
        predictor.classes.names,
        DRAWN_SCORE,
    )
    name = PurePath(data.file_names[index])
    # A name from the annotation file must not lead out of the folder.
    target = folder.joinpath(*(part for part in name.parts if part not in ("..", name.anchor)))
    if target.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
        target = target.with_name(f"{target.name}.jpg")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as temporary:
        picture.save(temporary, quality=90)
