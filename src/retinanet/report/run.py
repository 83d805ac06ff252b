"""`retinanet report`: from a model or its results to the page."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from retinanet.config import PostprocessConfig, PredictConfig
from retinanet.data.annotations import CocoData
from retinanet.data.classes import require_same_classes
from retinanet.data.coco import read_annotations
from retinanet.device import choose_workers
from retinanet.errors import UsageError
from retinanet.files import require_other_file, require_writable
from retinanet.predict.dataset import collect_results, tell_dropped_images
from retinanet.predict.predictor import load
from retinanet.predict.results import Results, read_results
from retinanet.report.build import write_report


def run_report(
    source: Path,
    *,
    images: Path,
    annotations: Path,
    output: Path,
    postprocess: PostprocessConfig,
    predict: PredictConfig,
) -> None:
    """Write the report of `source`, a model or COCO results (by its ending, .json), as `retinanet report` does.

    Raises:
        RetinaNetError: what the user can act on.
    """
    require_writable(output)
    require_other_file("--output", output, annotations, source)
    if source.suffix.lower() == ".json":
        if (postprocess, predict) != (PostprocessConfig(), PredictConfig()):
            raise UsageError(
                f"Options that say how a model runs do nothing for results, but came with {source.name}: leave them "
                "out, or give the model."
            )
        results = read_results(source)
        data = read_annotations(annotations, images)
        results = results[~np.isin(results.image_ids, [problem.id for problem in data.dropped_images])]
        tell_dropped_images(data)
    else:
        predictor = load(source, config=predict, postprocess=postprocess)
        data = read_annotations(annotations, images)
        require_same_classes(data, predictor.classes)
        tell_dropped_images(data)
        results, _ = collect_results(predictor, data, workers=choose_workers(predict.workers), title="Detecting")
    write_report(output, data, results, source)
    print(f"Wrote {output}: open it in a browser.", file=sys.stderr)


def report_training(model: Path, data: CocoData, results: Results) -> None:
    """Write MODEL.report.html about the last validation of a training, and say so; a failure is only told.

    The model is trained and saved by then: nothing that goes wrong here is worth its run's failure.
    """
    output = model.with_name(f"{model.stem}.report.html")
    try:
        write_report(output, data, results, model)
    except Exception as error:
        print(
            f"The report {output} could not be written ({error or type(error).__name__}); `retinanet report {model}` "
            "tries again.",
            file=sys.stderr,
        )
    else:
        print(f"What it gets right and wrong: {output}", file=sys.stderr)
