"""The report as a page."""

from __future__ import annotations

from pathlib import Path

from retinanet.data.annotations import CocoData
from retinanet.page import Page
from retinanet.predict.results import Results
from retinanet.report.confidence import add_confidence
from retinanet.report.confusion import add_confusion
from retinanet.report.figures import Figures, measure
from retinanet.report.galleries import add_images, add_suspects
from retinanet.report.sections import add_classes, add_curves, add_errors, add_training
from retinanet.report.training import read_curves

_SHOWN = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP small", "APm": "AP medium", "APl": "AP large"}


def write_report(output: Path, data: CocoData, results: Results, source: Path) -> None:
    """Write the page about `results`, which `source` (a model or a results file) gave on `data`.

    Raises:
        DataError: `results` and `data` do not belong together.
        UsageError: `output` cannot be written.
    """
    figures = measure(data, results)
    page = Page(f"Report of {source.name}", _lead(data, results), facts=_facts(figures))
    add_classes(page, figures)
    add_errors(page, figures)
    add_curves(page, figures)
    add_confusion(page, figures)
    add_confidence(page, figures)
    add_training(page, read_curves(source))
    add_images(page, data, figures)
    add_suspects(page, data, results)
    page.write(output)


def _lead(data: CocoData, results: Results) -> str:
    crowds = int(data.crowd.sum())
    objects = f"{len(data.boxes) - crowds:,} objects" + (f" and {crowds:,} crowds" if crowds else "")
    return f"{len(results):,} detections compared with {data.source.name}: {len(data):,} images, {objects}."


def _facts(figures: Figures) -> list[tuple[str, str]]:
    numbers = [(shown, getattr(figures.metrics, name)) for name, shown in _SHOWN.items()]
    return [(shown, f"{number:.3f}") for shown, number in numbers if number >= 0]
