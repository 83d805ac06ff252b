"""`retinanet infer`: from images, by one process or several, to a results file, whatever ends the run half-way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from retinanet.config import InferConfig, PostprocessConfig
from retinanet.data.annotations import CocoData
from retinanet.data.classes import require_same_classes
from retinanet.data.coco import read_annotations
from retinanet.data.folder import images_only
from retinanet.data.video import Video
from retinanet.errors import DataError, Interrupted
from retinanet.files import is_device, require_other_file, require_writable
from retinanet.predict.dataset import show_progress, tell_dropped_images, tell_left_out
from retinanet.predict.delivery import Delivery
from retinanet.predict.formats.kinds import results_format, results_writer
from retinanet.predict.image_lists import write_failed_list, write_image_list
from retinanet.predict.journal import Finished, Journal
from retinanet.predict.pictures import make_picture_folder, require_no_original
from retinanet.predict.predictor import Predictor
from retinanet.predict.processes import choose_processes, run_processes
from retinanet.predict.results import Results, concatenate
from retinanet.predict.runtimes.kinds import read_classes
from retinanet.predict.unfinished import describe_run, open_journal
from retinanet.predict.video import annotated_video
from retinanet.predict.work import Work, do_work, open_predictor
from retinanet.stop import StopRequest
from retinanet.types import ClassMap
from retinanet.words import counted


def run_inference(
    model: Path,
    *,
    images: Path,
    annotations: Path | None,
    output: Path,
    draw: Path | None,
    config: InferConfig = InferConfig(),
    postprocess: PostprocessConfig | None = None,
) -> tuple[CocoData, Results] | None:
    """Write results, and pictures where `draw` names a folder; return the data and the results that can be scored.

    What is done lies in a folder beside `output`, with .partial after its name, until all of it is.

    Raises:
        UsageError: if annotations or images would be overwritten.
        Interrupted: by SIGINT or SIGTERM.
        RetinaNetError: what the user can act on. Either keeps what is done for `config.resume`.
    """
    results_format(output)
    require_writable(output)
    require_other_file("--output", output, annotations)
    if draw is not None:
        make_picture_folder(draw)
    data = read_annotations(annotations, images) if annotations else images_only(images)
    if draw is not None:
        require_no_original(data, draw)
    tell_dropped_images(data)
    devices = choose_processes(config, model, data)
    predictor = open_predictor(model, config, postprocess, data, 1) if len(devices) == 1 else None
    classes = predictor.classes if predictor else read_classes(model)
    if annotations:
        require_same_classes(data, classes)

    results: list[Results] = []
    run = describe_run(model, data, config, postprocess, draw)
    with open_journal(output, run, len(data), resume=config.resume) as journal:
        pictures = None if isinstance(data, Video) else draw
        work = Work(model, config, postprocess, data, pictures, journal.folder, world=len(devices))
        with ExitStack() as stack:
            writer = stack.enter_context(results_writer(output, data, classes, journal.folder))
            receivers: list[Callable[[Finished], object]] = [lambda finished: writer.write(*finished)]
            if isinstance(data, Video) and draw is not None:
                receivers.append(stack.enter_context(annotated_video(data, classes, draw)))
            if annotations:
                receivers.append(lambda finished: results.append(finished.results))
            delivery = Delivery(data, receivers, stack.enter_context(show_progress()))
            failed = _do_missing(work, predictor, devices, journal, delivery)
            unread = failed | {problem.id: problem.detail for problem in data.dropped_images}
            for image_id, reason in unread.items():
                writer.write_failed(image_id, reason)
        tell_left_out(list(failed.values()))
        _list_images(output, data, classes, unread)
    print(
        f"Wrote {output}: {counted(delivery.detections, 'detection')} in {counted(int(delivery.done.sum()), 'image')}.",
        file=sys.stderr,
    )
    return (data, concatenate(results)) if annotations else None


def _do_missing(
    work: Work, predictor: Predictor | None, devices: list[str], journal: Journal, delivery: Delivery
) -> dict[int, str]:
    """Do what the journal does not hold, with `predictor` or in processes of their own; return who failed, and why."""
    data = work.data
    for finished in journal.finished():
        delivery(finished)
    work = replace(work, images=delivery.missing())
    broken: dict[str, str] = {}
    if len(work.images):
        with StopRequest() as stop:
            shares = [replace(work, rank=rank, part=journal.new_part()) for rank in range(work.world)]
            if predictor:
                broken = do_work(predictor, shares[0], stop, delivery)
            else:
                broken = run_processes(shares, devices, stop, delivery)
            if stop.requested and len(delivery.missing()):
                raise Interrupted
    failed = {int(data.image_ids[index]): broken[str(data.image_path(index))] for index in delivery.missing().tolist()}
    if len(failed) == len(data):
        raise DataError(f"None of the {len(data)} images could be used; the first: {next(iter(failed.values()))}")
    return failed


def _list_images(output: Path, data: CocoData, classes: ClassMap, unread: dict[int, str]) -> None:
    """Say beside the output what it does not say itself: which id is which image, and which have no results."""
    if is_device(output):
        return
    if data.classes is None and not results_format(output).names_images:
        write_image_list(output, data, classes)
    listed = write_failed_list(output, unread)
    if listed:
        print(f"Listed in {listed}: {counted(len(unread), 'image')} without results.", file=sys.stderr)
