"""Read an annotation file as far as it can be read: where training stops at the first fault, all are listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retinanet.data.annotations import CocoData
from retinanet.data.coco import join_columns
from retinanet.data.coco_columns import Columns, read_columns
from retinanet.doctor.findings import Case, Finding, Split, found


def read_with_faults(path: Path, images: Path, split: Split) -> tuple[CocoData, list[Finding]]:
    """The file's usable part, and what training would refuse it for.

    Raises:
        DataError: the file is not COCO's, or nothing in it can be used.
    """
    faults: list[str] = []
    columns = read_columns(path, faults)
    what, remedy = "Records of the annotation file that can't be read", "Correct them: training refuses to start."
    findings = found("unreadable-record", "error", split, what, remedy, (Case(fault) for fault in faults))
    findings += _repeated_categories(columns, split)
    findings += _repeated_ids("image", np.asarray(columns.image_ids), columns.file_names, split)
    findings += _repeated_ids("annotation", np.asarray(columns.annotation_ids), None, split)
    findings += _drop_undefined(columns, split)
    findings += _drop_sizeless(columns, split)
    data = join_columns(path, columns, images)
    what, remedy = "Annotated images that are missing from the folder", "Training leaves them out."
    missing = (Case(problem.detail, (problem.id,)) for problem in data.dropped_images)
    return data, findings + found("missing-image", "warning", split, what, remedy, missing)


def _repeated_categories(columns: Columns, split: Split) -> list[Finding]:
    first: dict[int, str] = {}
    cases = []
    for category_id, name in columns.categories:
        if category_id in first:
            cases.append(Case(f"category {category_id} is both '{first[category_id]}' and '{name}'"))
        else:
            first[category_id] = name
    columns.categories[:] = first.items()
    what = "Categories with the id of another one"
    return found("repeated-category-id", "error", split, what, "Renumber them: training refuses to start.", cases)


def _repeated_ids(what: str, ids: np.ndarray, names: list[str] | None, split: Split) -> list[Finding]:
    distinct, counts = np.unique(ids, return_counts=True)
    repeated, times = distinct[counts > 1], counts[counts > 1]

    def case(one: int, uses: int) -> Case:
        detail = f"{what} id {one} is used {uses} times"
        if names is None:
            return Case(detail, annotation_ids=(one,))
        return Case(detail, (one,), tuple(names[index] for index in np.flatnonzero(ids == one)))

    cases = (case(one, uses) for one, uses in zip(repeated.tolist(), times.tolist(), strict=True))
    said, remedy = f"Ids that more than one {what} has", f"Renumber the {what}s: training refuses to start."
    return found(f"repeated-{what}-id", "error", split, said, remedy, cases, len(repeated))


def _drop_undefined(columns: Columns, split: Split) -> list[Finding]:
    """Leave out the annotations whose image or category does not exist."""
    findings = []
    categories = [category_id for category_id, _ in columns.categories]
    for what, defined in (("image", np.asarray(columns.image_ids)), ("category", np.array(categories, np.int64))):
        wanted = np.asarray(columns.annotation_images if what == "image" else columns.annotation_categories)
        good = np.isin(wanted, defined)
        ids = np.asarray(columns.annotation_ids)
        cases = (
            Case(f"annotation {ids[row]} names {what} {wanted[row]}", annotation_ids=(int(ids[row]),))
            for row in np.flatnonzero(~good)
        )
        said, remedy = f"Annotations of an undefined {what}", "Define it or remove them: training refuses to start."
        findings += found(f"undefined-{what}", "error", split, said, remedy, cases, int((~good).sum()))
        if not good.all():
            columns.keep(np.ones(len(columns.image_ids), bool), good)
    return findings


def _drop_sizeless(columns: Columns, split: Split) -> list[Finding]:
    """Leave out the images whose declared width or height is not positive, with their annotations."""
    sizes, ids = np.asarray(columns.sizes).reshape(-1, 2), np.asarray(columns.image_ids)
    good = sizes.min(1) > 0
    cases = (
        Case(f"width {sizes[row, 1]}, height {sizes[row, 0]}", (int(ids[row]),), (columns.file_names[row],))
        for row in np.flatnonzero(~good)
    )
    what, remedy = "Images without a positive width and height", "Correct them: training refuses to start."
    findings = found("sizeless-image", "error", split, what, remedy, cases, int((~good).sum()))
    if findings:
        columns.keep(good, np.isin(np.asarray(columns.annotation_images), ids[good]))
    return findings
