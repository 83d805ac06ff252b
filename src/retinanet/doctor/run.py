"""`retinanet doctor`: from options to a diagnosis, and to what is printed and written."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from retinanet.config import DataConfig
from retinanet.data.annotations import CocoData
from retinanet.device import choose_workers
from retinanet.doctor.advice import advise
from retinanet.doctor.box_checks import check_boxes
from retinanet.doctor.class_checks import check_classes
from retinanet.doctor.coverage import Coverage, Targets, cover, resize_targets
from retinanet.doctor.diagnosis import Diagnosis
from retinanet.doctor.duplicates import check_duplicates, check_overlap
from retinanet.doctor.findings import Case, Finding, Split, found
from retinanet.doctor.html import write_page
from retinanet.doctor.image_checks import check_images, usable_images
from retinanet.doctor.overfit import Overfit, overfit
from retinanet.doctor.profile import make_profile
from retinanet.doctor.reading import read_with_faults
from retinanet.doctor.record import write_record
from retinanet.doctor.scan import Scan, scan_images
from retinanet.doctor.text import describe
from retinanet.errors import UsageError
from retinanet.files import require_other_file, require_writable

_ORDER = ("error", "warning", "note")


def run_doctor(
    *,
    images: Path,
    annotations: Path,
    val_images: Path | None,
    val_annotations: Path | None,
    config: DataConfig,
    anchor_scale: float,
    with_overfit: bool,
    seed: int,
    output: Path,
    json: str | None,
) -> bool:
    """Diagnose as `retinanet doctor` does, see its help; return whether training would make sense.

    Raises:
        RetinaNetError: what the user can act on: an annotation file of which nothing can be used, a bad option.
    """
    if (val_images is None) != (val_annotations is None):
        raise UsageError("--val-images and --val-annotations go together, but one is missing; give both or none.")
    require_writable(output)
    require_other_file("--output", output, annotations, val_annotations)
    if json not in (None, "-"):
        require_writable(Path(json))
        require_other_file("--json", Path(json), annotations, val_annotations)
    sets: dict[Split, tuple[Path, Path]] = {"training": (images, annotations)}
    if val_images is not None and val_annotations is not None:
        sets["validation"] = (val_images, val_annotations)
    diagnosis = diagnose(sets, config, anchor_scale, with_overfit=with_overfit, seed=seed)
    write_page(output, diagnosis, seed)
    if json is not None:
        write_record(json, diagnosis)
    if json != "-":
        print(describe(diagnosis))
    print(f"Wrote {output}", file=sys.stderr)
    return not diagnosis.pointless


def diagnose(
    sets: dict[Split, tuple[Path, Path]], config: DataConfig, anchor_scale: float, *, with_overfit: bool, seed: int
) -> Diagnosis:
    """Look at (images, annotations) of the training set and, where there is one, of the validation set."""
    workers = choose_workers(config.workers)
    findings: list[Finding] = []
    data: dict[Split, CocoData] = {}
    scans: dict[Split, Scan] = {}
    for split, (folder, file) in sets.items():
        data[split], faults = read_with_faults(file, folder, split)
        scans[split] = scan_images(data[split], workers, f"Looking at {split} images")
        findings += [*faults, *check_images(scans[split], split), *check_boxes(data[split], split)]
        findings += check_duplicates(scans[split], split)
    training, validation = data["training"], data.get("validation")
    findings += check_classes(training, validation)
    if "validation" in scans:
        findings += check_overlap(scans["training"], scans["validation"])
    usable = usable_images(scans["training"])
    targets = resize_targets(training, config.resize, config.longest)
    coverage = cover(targets, anchor_scale)
    findings += _check_targets(training, usable, targets, coverage)
    lesson = overfit(training, usable, config, anchor_scale, seed) if with_overfit else None
    findings += _check_lesson(lesson)
    return Diagnosis(
        training=training,
        validation=validation,
        config=config,
        anchor_scale=anchor_scale,
        profiles={split: make_profile(data[split], scans[split]) for split in sets},
        findings=tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.severity))),
        targets=targets,
        coverage=coverage,
        advice=tuple(advise(training, targets, config, anchor_scale)),
        overfit=lesson,
    )


def _check_targets(data: CocoData, usable: list[int], targets: Targets, coverage: Coverage) -> list[Finding]:
    """Whether anything is left to learn from, and the boxes that no anchor learns."""
    if not usable:
        return _nothing_usable("image", data)
    if not len(targets.rows):
        return _nothing_usable("box", data)
    missed, sides = np.flatnonzero(coverage.missed), targets.sides
    cases = (
        Case(
            f"bbox {data.boxes[targets.rows[row]].tolist()}, {sides[row]:.0f} px after resizing",
            (int(data.image_ids[targets.image_of[row]]),),
            (data.file_names[targets.image_of[row]],),
            (int(data.annotation_ids[targets.rows[row]]),),
        )
        for row in missed.tolist()
    )
    what, remedy = "Boxes that no anchor learns", "None overlaps them, or other boxes have their best ones."
    return found("unreachable-box", "note", "training", what, remedy, cases, len(missed))


def _nothing_usable(what: str, data: CocoData) -> list[Finding]:
    usable = f"{len(data)} images, {int(data.usable.sum())} usable boxes of which {int(data.crowd.sum())} are crowds"
    remedy = "Correct the images or the annotations."
    return found("nothing-usable", "error", "training", f"Sets without a usable {what}", remedy, [Case(usable)])


def _check_lesson(lesson: Overfit | None) -> list[Finding]:
    if lesson is None or lesson.learned:
        return []
    what, remedy = "Batches that a network could not learn by heart", "Look at its pictures in the page."
    detail = f"loss {lesson.losses[0]:.2f} → {lesson.losses[-1]:.2f}, {lesson.found} of {lesson.boxes} boxes found"
    return found("overfit-failed", "error", "training", what, remedy, [Case(detail)])
