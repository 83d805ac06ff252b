"""What one process does of `retinanet infer`: its share of the images through the model, and on to disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import numpy as np
from torch import Tensor

from retinanet.config import PostprocessConfig, PredictConfig
from retinanet.data.annotations import CocoData
from retinanet.data.loading import prepare_loader
from retinanet.data.video import Video
from retinanet.device import choose_device, choose_workers
from retinanet.predict.dataset import open_loader
from retinanet.predict.journal import Finished, PartWriter
from retinanet.predict.pictures import write_pictures
from retinanet.predict.pipeline import run_batches
from retinanet.predict.predictor import Predictor, load
from retinanet.predict.results import to_results
from retinanet.predict.runtimes.kinds import artifact_runtime
from retinanet.stop import StopRequest
from retinanet.types import Detections


@dataclass(frozen=True, eq=False)
class Work:
    """Plain values, so that it can be sent to another process."""

    model: Path
    config: PredictConfig
    postprocess: PostprocessConfig | None
    data: CocoData
    draw: Path | None
    journal: Path
    world: int
    """Processes that share the images."""
    images: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """int64 `[J]`, positions in the data of the images that are to be done, by all of them together."""
    rank: int = 0
    """Which of the processes."""
    part: int = 0
    """Of the journal, for this process."""


def open_predictor(
    model: Path, config: PredictConfig, postprocess: PostprocessConfig | None, data: CocoData, world: int
) -> Predictor:
    """Load the model (see `load`), and meanwhile begin what the first batch of `data` waits for."""
    if not isinstance(data, Video):
        prepare_work(model, config, world)
    return load(model, config=config, postprocess=postprocess)


def prepare_work(model: Path, config: PredictConfig, world: int) -> None:
    """Begin what the first batch waits for, before the model is loaded, which takes as long.

    Only for checkpoints: an exported model has a batch of its own.
    """
    if artifact_runtime(model) is None:
        workers = choose_workers(config.workers, sharing=world)
        prepare_loader(config.loader, choose_device(config.device), config.batch, workers=workers)


def do_work(
    predictor: Predictor, work: Work, stop: StopRequest, then: Callable[[Finished], None] | None = None
) -> dict[str, str]:
    """Detect in this process's images, until it is asked to stop; each batch goes into the journal, and then to `then`.

    Returns the files that could not be read, path → sentence; the journal has them too.
    """
    workers = choose_workers(work.config.workers, sharing=work.world)
    loader = open_loader(
        predictor,
        work.data,
        workers=workers,
        images=work.images,
        rank=work.rank,
        world=work.world,
        shared=True,
    )
    part = PartWriter(work.journal, work.part)

    def finish(image_ids: Tensor, detections: Detections) -> None:
        finished = Finished(image_ids[image_ids >= 0].numpy(), to_results(detections, image_ids, predictor.classes))
        if work.draw is not None:
            indices = work.data.indices_of(finished.image_ids)
            write_pictures(work.data, indices, finished.results, predictor.classes, work.draw)
        part.append(finished)
        if then is not None:
            then(finished)

    run_batches(predictor, takewhile(lambda _: not stop.requested, loader), finish)
    if not stop.requested:
        part.close(loader.broken)
    return loader.broken
