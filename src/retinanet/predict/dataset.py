"""From a data set to results, batch by batch: what `retinanet infer` and each validation do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from retinanet.data.annotations import CocoData
from retinanet.data.sampler import PredictPlan
from retinanet.data.torch_loader import TorchLoader
from retinanet.files import require_writable
from retinanet.predict.predictor import Predictor
from retinanet.predict.results import Results, concatenate, results_writer, to_results, write_image_list
from retinanet.preprocess import group_by_canvas

DRAWN_SCORE = 0.3
"""Lowest score that is drawn into pictures: below it, boxes hide what is there."""


def predict_dataset(predictor: Predictor, data: CocoData, *, workers: int, title: str) -> Iterator[Results]:
    """Results of each batch; every image once. Progress and unreadable images are told on stderr."""
    canvas_of_image, canvases = group_by_canvas(data.sizes, predictor.resize, predictor.max_size)
    plan = PredictPlan(canvas_of_image, canvases, predictor.batch)
    loader = TorchLoader(data, plan, predictor.resize, predictor.max_size, workers=workers)
    console = Console(stderr=True, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=len(data))
        for batch in loader:
            yield to_results(predictor.run(batch), batch.image_ids, predictor.classes)
            progress.update(task, advance=int((batch.image_ids >= 0).sum()))
    for sentence in loader.broken.values():
        console.print(f"Left out: {sentence}", markup=False, highlight=False)


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
        draw.mkdir(parents=True, exist_ok=True)
    kept: list[Results] = []
    with ExitStack() as stack:
        write = stack.enter_context(results_writer(output))
        for results in predict_dataset(predictor, data, workers=workers, title="Detecting"):
            write(results)
            if keep:
                kept.append(results)
            if draw is not None:
                _draw(predictor, data, results, draw)
    if data.classes is None:
        write_image_list(output, _image_list(data), predictor.classes)
    return concatenate(kept) if keep else None


def _image_list(data: CocoData) -> Iterator[dict[str, int | str]]:
    for index, (image_id, (height, width)) in enumerate(zip(data.image_ids.tolist(), data.sizes.tolist(), strict=True)):
        yield {"id": image_id, "file_name": data.file_names[index], "width": width, "height": height}


def _draw(predictor: Predictor, data: CocoData, results: Results, folder: Path) -> None: ...
