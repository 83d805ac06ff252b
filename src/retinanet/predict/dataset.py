"""From a data set to its results: what `retinanet infer`, each validation and the report do."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from retinanet.data.annotations import CocoData
from retinanet.data.loader import Loader
from retinanet.data.loading import make_loader
from retinanet.data.sampler import PredictPlan
from retinanet.data.video import Video
from retinanet.predict.pipeline import run_batches
from retinanet.predict.predictor import Predictor
from retinanet.predict.results import Results, concatenate, to_results
from retinanet.types import Detections
from retinanet.words import counted


def open_loader(
    predictor: Predictor,
    data: CocoData,
    *,
    workers: int,
    images: np.ndarray | None = None,
    rank: int = 0,
    world: int = 1,
    shared: bool = False,
) -> Loader:
    """Batches for `predictor`: of all images, or of some (positions in the data), or of one rank's share of these.

    The canvases are those of all of the data, so that an image's detections do not depend on which are run with it.
    `shared`: there are other images, so that it is no error when none of these can be read.
    """
    canvas_of_image, canvases = predictor.group_by_canvas(data.sizes)
    plan = PredictPlan(canvas_of_image, canvases, predictor.batch, images, rank, world)
    kind, device = predictor.loader, predictor.runtime.device
    if isinstance(data, Video):
        kind, workers = "torch", min(workers, 1)  # several would each decode all of it
    return make_loader(kind, device, data, plan, predictor.resize, predictor.max_size, workers=workers, shared=shared)


def collect_results(
    predictor: Predictor,
    data: CocoData,
    *,
    workers: int,
    title: str,
    rank: int = 0,
    world: int = 1,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Results, int]:
    """The results of all images, and how many images could be read; of one rank's share, where there are several.

    When `stopped` becomes true, they are those of the batches until then. Unreadable images are told on stderr,
    progress is by rank 0.

    Raises:
        DataError: no image can be read (by the only rank; a share of several may hold none).
    """
    loader = open_loader(predictor, data, workers=workers, rank=rank, world=world, shared=world > 1)
    parts: list[Results] = []
    images = 0
    with show_progress(quiet=rank > 0) as progress:
        task = progress.add_task(title, total=len(data) // world)

        def finish(image_ids: Tensor, detections: Detections) -> None:
            nonlocal images
            parts.append(to_results(detections, image_ids, predictor.classes))
            images += int((image_ids >= 0).sum())
            progress.update(task, completed=images)

        run_batches(predictor, itertools.takewhile(lambda _: not stopped(), loader), finish)
    tell_left_out(list(loader.broken.values()))
    return concatenate(parts), images


def show_progress(*, quiet: bool = False) -> Progress:
    """A bar on stderr where that is a terminal."""
    console = Console(stderr=True, soft_wrap=True)
    return Progress(console=console, transient=True, disable=quiet or not console.is_terminal)


def tell_left_out(sentences: list[str], most: int = 10) -> None:
    """Say on stderr which images could not be read, the first of them one by one."""
    for sentence in sentences[:most]:
        print(f"Left out: {sentence}", file=sys.stderr)
    if len(sentences) > most:
        print(f"Left out: {counted(len(sentences) - most, 'more image')}.", file=sys.stderr)


def tell_dropped_images(data: CocoData) -> None:
    """Say on stderr how many images `data` had to leave out when it was read, and why the first."""
    if data.dropped_images:
        print(
            f"Left out: {counted(len(data.dropped_images), 'image')}; the first: {data.dropped_images[0].detail}",
            file=sys.stderr,
        )
