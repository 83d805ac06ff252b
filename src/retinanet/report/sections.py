"""The sections of the report: what each shows, and the words around it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from retinanet.page import Markup, Page, Row, bar_chart, columns, fold, line_chart, note, table
from retinanet.page.charts import Points
from retinanet.report.figures import Figures
from retinanet.report.per_class import IOU_50, IOU_75, IOU_90

_MOST_CURVES = 24
_OPEN_CURVES = 6
_TIDE = {
    "Cls": ("wrong class", "a good box with another object's class"),
    "Loc": ("poor box", "the right class, but an IoU between 0.1 and 0.5"),
    "Both": ("class and box", "another object's class, and an IoU between 0.1 and 0.5"),
    "Dupe": ("duplicate", "an object that a better detection has found already"),
    "Bkg": ("false alarm", "a detection where nothing is annotated"),
    "Miss": ("missed object", "an object that no detection comes near"),
}


def add_classes(page: Page, figures: Figures) -> None:
    """AP by class and size."""
    section = page.section(
        "Classes",
        "Average precision over IoU 0.50 to 0.95 as COCO defines it: of all objects, and of small (up to 32² pixels), "
        "medium (up to 96²) and large ones.",
    )
    header = ["class", "AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR100", "objects"]
    rows = [
        Row([c.name, c.AP, c.AP50, c.AP75, c.APs, c.APm, c.APl, c.AR100, c.objects])
        for c in sorted(figures.classes, key=lambda c: (c.AP is None, c.AP or 0))
    ]
    section.add(table(header, rows, caption="By class, weakest first"))


def add_errors(page: Page, figures: Figures) -> None:
    """TIDE's kinds of error."""
    gains, counts = figures.tide["delta_ap"], figures.tide["counts"]
    section = page.section(
        "Errors",
        "Each kind of error (TIDE, Bolya et al. 2020), and how far AP at IoU 0.50 would rise if it alone were mended.",
    )
    worst = max(_TIDE, key=gains.__getitem__)
    if gains[worst] > 0:
        base = figures.tide["ap_base"]
        section.add(
            f"Most is lost to the kind “{_TIDE[worst][0]}”, {_TIDE[worst][1]}: without it, AP50 would be "
            f"{base + gains[worst]:.3f} in place of {base:.3f}."
        )
    order = sorted(_TIDE, key=gains.__getitem__, reverse=True)
    rows = [Row([_TIDE[kind][0], _TIDE[kind][1], counts[kind], gains[kind]]) for kind in order]
    section.add(
        columns(
            bar_chart("AP50 lost to each kind", {_TIDE[kind][0]: max(gains[kind], 0) for kind in order}, digits=3),
            table(["error", "what it is", "count", "AP50 lost"], rows, caption="Kinds of error"),
        )
    )


def add_curves(page: Page, figures: Figures) -> None:
    """Precision by recall."""
    section = page.section(
        "Precision and recall",
        "What share of the detections is right (precision) as more of the objects are found (recall), by the IoU that "
        "counts as found. Weakest classes first.",
    )
    recall = np.linspace(0, 1, 101)
    chosen = {"IoU 0.50": IOU_50, "IoU 0.75": IOU_75, "IoU 0.90": IOU_90}
    known = [c for c in figures.classes if c.AP is not None]
    if not known:
        section.add(note("There is no ground truth to compare with."))
        return
    mean = np.mean([c.curves for c in known], axis=0)
    charts = [
        _precision_recall(title, {name: (recall, curves[index]) for name, index in chosen.items()})
        for title, curves in [
            ("All classes", mean),
            *((c.name, c.curves) for c in sorted(known, key=lambda c: c.AP or 0)[:_MOST_CURVES]),
        ]
    ]
    section.add(columns(*charts[:_OPEN_CURVES]))
    if len(charts) > _OPEN_CURVES:
        section.add(fold(f"The next {len(charts) - _OPEN_CURVES} classes", columns(*charts[_OPEN_CURVES:])))


def _precision_recall(title: str, series: Mapping[str, Points]) -> Markup:
    return line_chart(title, series, x_label="recall", y_label="precision", x_range=(0, 1), y_range=(0, 1))


def add_training(page: Page, curves: Mapping[str, Points]) -> None:
    """Losses, AP and learning rate by step."""
    if not curves:
        return
    section = page.section("Training", "From metrics.csv beside the model.")
    groups = {
        "Losses": {"class_loss": "classification", "box_loss": "boxes"},
        "Validation": {"AP": "AP", "AP50": "AP50", "AP75": "AP75"},
        "Learning rate": {"learning_rate": "learning rate"},
    }
    charts = []
    for title, names in groups.items():
        series = {shown: curves[name] for name, shown in names.items() if name in curves}
        if series:
            charts.append(line_chart(title, series, x_label="step"))
    section.add(columns(*charts))
