"""The diagnosis for people: one page with pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from retinanet.data.annotations import CocoData
from retinanet.data.images import read_image
from retinanet.doctor.diagnosis import Diagnosis, Reach
from retinanet.doctor.findings import Finding, Severity
from retinanet.doctor.samples import draw_batch, draw_samples
from retinanet.doctor.text import facts, lesson, named, share
from retinanet.errors import DataError
from retinanet.page import (
    Card,
    Markup,
    Page,
    Picture,
    Row,
    Tags,
    bar_chart,
    cards,
    columns,
    fold,
    histogram,
    line_chart,
    listing,
    note,
    table,
)
from retinanet.predict.draw import draw_detections

_SHOWN_CASES = 100
_PICTURES = 3
"""Of a finding."""
_BINS = 24
_NOTES: dict[Severity, Literal["info", "warning", "error"]] = {
    "error": "error",
    "warning": "warning",
    "note": "info",
}


def write_page(path: Path, diagnosis: Diagnosis, seed: int) -> None:
    """Write the page; `seed` chooses the training samples. Raises `UsageError` where it can't be written."""
    profile = diagnosis.profiles["training"]
    count = sum(finding.count for finding in diagnosis.findings)
    page = Page(
        "Doctor's findings",
        f"{diagnosis.training.source.name}, before training at --resize {diagnosis.config.resize}",
        facts=[
            ("images", f"{profile.images:,}"),
            ("boxes", f"{profile.boxes:,}"),
            ("classes", f"{len(profile.classes):,}"),
            ("matched by anchors", share(diagnosis.reach.matched)),
            ("faults", f"{count:,}"),
        ],
    )
    _add_findings(page, diagnosis)
    if diagnosis.advice:
        page.section("Advice", "Each follows from the numbers in it.").add(
            listing(advice.sentence for advice in diagnosis.advice)
        )
    samples = draw_samples(diagnosis.training, diagnosis.config, seed)
    section = page.section("What the network sees", "Training samples after resizing and augmentation, boxes drawn in.")
    section.add(cards([Card(f"image {image_id}", [_picture(image)]) for image_id, image in samples]))
    if diagnosis.overfit is not None:
        _add_lesson(page, diagnosis)
    _add_anchors(page, diagnosis)
    _add_data(page, diagnosis)
    page.write(path)


def _add_findings(page: Page, diagnosis: Diagnosis) -> None:
    section = page.section("Findings")
    if not diagnosis.findings:
        section.add(note("no fault was found.", "good"))
    for finding in diagnosis.findings:
        section.add(note(f"{finding.sentence} ({finding.split})", _NOTES[finding.severity]))
        data = diagnosis.training if finding.split == "training" else diagnosis.validation
        assert data is not None
        pictures = list(_pictures_of(data, finding))
        if pictures:
            section.add(cards(pictures))
        shown = [named(case) for case in finding.cases[:_SHOWN_CASES]]
        if finding.count > len(shown):
            shown.append(f"… and {finding.count - len(shown):,} more")
        section.add(fold(f"{finding.kind}: {finding.count:,}", listing(shown)))


def _pictures_of(data: CocoData, finding: Finding) -> Iterator[Card]:
    """The first few images that a finding is about, with the boxes that it names, or with all."""
    for case in finding.cases[:_PICTURES]:
        drawn = (_annotated(data, image_id, case.annotation_ids) for image_id in case.image_ids[:2])
        pictures = [_picture(image) for image in drawn if image]
        if pictures:
            yield Card(", ".join(case.file_names[:2]), pictures, [case.detail])


def _annotated(data: CocoData, image_id: int, annotation_ids: tuple[int, ...]) -> Image.Image | None:
    matches = np.flatnonzero(data.image_ids == image_id)
    if not len(matches):
        return None
    index = int(matches[0])
    try:
        image = read_image(data.image_path(index))
    except DataError:
        return None
    assert data.classes is not None
    rows = np.arange(data.offsets[index], data.offsets[index + 1])
    if annotation_ids:
        rows = rows[np.isin(data.annotation_ids[rows], annotation_ids)]
    corners = np.concatenate([data.boxes[rows, :2], data.boxes[rows, :2] + data.boxes[rows, 2:]], axis=1)
    return draw_detections(image, corners, data.labels[rows], None, data.classes.names)


def _picture(image: Image.Image) -> Picture:
    return Picture.of(image, "the image with boxes drawn in")


def _add_lesson(page: Page, diagnosis: Diagnosis) -> None:
    result = diagnosis.overfit
    assert result is not None
    assert diagnosis.training.classes is not None
    section = page.section("One batch, learned by heart", lesson(diagnosis))
    section.add(line_chart("Loss", {"loss": (range(1, len(result.losses) + 1), result.losses)}, x_label="step"))
    drawn = draw_batch(result.batch, diagnosis.training.classes)
    section.add(cards([Card(f"image {image_id}", [_picture(image)]) for image_id, image in drawn]))


def _add_anchors(page: Page, diagnosis: Diagnosis) -> None:
    reach = diagnosis.reach
    section = page.section(
        "Anchors",
        f"{share(reach.matched)} of the boxes match an anchor at IoU 0.5, and {share(reach.learned)} are learned with "
        f"low-quality matches, at --resize {diagnosis.config.resize} and --anchor-scale {diagnosis.anchor_scale:g}.",
    )
    shares = {name: 100 * group.matched for name, group in diagnosis.reach_by_side.items() if group.boxes}
    section.add(
        columns(
            bar_chart("Matched boxes by size after resizing, %", shares, maximum=100, digits=1),
            _histogram("Best IoU of each box with an anchor", diagnosis.coverage.best_iou, log=False),
        )
    )
    classes = diagnosis.profiles["training"].classes
    rows = [
        Row(
            [profile.name, profile.boxes, profile.images, profile.side.median, *_percentages(group)],
            Tags((profile.name,)),
        )
        for profile, group in zip(classes, diagnosis.reach_by_class, strict=True)
    ]
    header = ["class", "boxes", "images", "median side (px)", "matched %", "learned %"]
    section.add(table(header, rows, caption="Classes", digits=1))


def _percentages(reach: Reach) -> tuple[float | None, float | None]:
    return (100 * reach.matched, 100 * reach.learned) if reach.boxes else (None, None)


def _add_data(page: Page, diagnosis: Diagnosis) -> None:
    for split, profile in diagnosis.profiles.items():
        section = page.section(f"The {split} data")
        section.add(table(["what", "value"], [Row(list(fact)) for fact in facts(profile)], sortable=False))
        data = diagnosis.training if split == "training" else diagnosis.validation
        assert data is not None
        usable = data.usable & ~data.crowd
        if usable.any():
            wide, high = data.boxes[usable, 2:].T
            section.add(
                columns(
                    _histogram("Side of boxes (pixels of the original)", np.sqrt(wide * high), log=True),
                    _histogram("Width / height of boxes", wide / high, log=True),
                    _histogram("Boxes in an image", np.diff(data.offsets), log=False),
                )
            )


def _histogram(title: str, values: np.ndarray, *, log: bool) -> Markup:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    edges = np.geomspace(low, high, _BINS + 1) if log else np.linspace(low, high, _BINS + 1)
    edges[0], edges[-1] = low, high  # rounding must not lose the extremes
    return histogram(title, edges, np.histogram(values, edges)[0], log=log)
