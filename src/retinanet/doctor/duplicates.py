"""Images that occur more than once: the same file, or pictures that look the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from retinanet.doctor.findings import Finding, Split, found
from retinanet.doctor.scan import THUMBNAIL, Scan

ALIKE = 0.9
"""Correlation of two thumbnails' details from which on the pictures are taken for the same one.

Measured: 0.97 for one microscope slide taken twice, shifted by a few pixels and with another focus; at most 0.81 among
the 12 million pairs of 4,952 photographs, where plain grey values reach 0.95 (any aeroplane in the sky).
"""
_COARSE = 4  # brightness of each of 4×4 fields is taken away: what is left is detail
_PLAIN = 2.0  # standard deviation of grey values below which a thumbnail has too little detail to be compared
_CHUNK = 512  # thumbnails compared with all others at a time


class _Views(NamedTuple):
    """Thumbnails that can be compared."""

    indices: np.ndarray
    """int64 `[T]`, which images of the data."""
    digests: list[bytes]
    vectors: np.ndarray
    """float32 `[T, P]` of mean 0 and length 1: products are correlations."""
    aspects: np.ndarray
    """float64 `[T]`, width over height."""


def check_duplicates(scan: Scan, split: Split) -> list[Finding]:
    """Images of one set that are the same file, and those that show the same."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for index, _, digest in scan.readable():
        same[digest].append(index)
    groups = [indices for indices in same.values() if len(indices) > 1]
    findings = found(
        "duplicate-images",
        "warning",
        split,
        "Images that are there more than once, as files of the same bytes",
        "Keep one of each.",
        (scan.case("the same file", *indices) for indices in groups),
        len(groups),
    )
    views = _views(scan)
    alike = [
        scan.case(f"correlation {correlation:.3f}", views.indices[other], views.indices[row])
        for row, other, correlation in _alike(views, views, among=True)
        if views.digests[row] != views.digests[other]
    ]
    what, remedy = "Images that look the same as an earlier one", "Keep one of each, or at least all in one set."
    return findings + found("near-duplicate-images", "warning", split, what, remedy, alike)


def check_overlap(training: Scan, validation: Scan) -> list[Finding]:
    """Images of the validation set that training sees too, so that the metrics are too good."""
    taught = {digest: index for index, _, digest in training.readable()}
    same = {index: taught[digest] for index, _, digest in validation.readable() if digest in taught}
    cases = [
        validation.case(f"is the same file as the training image {_name(training, other)}", index)
        for index, other in same.items()
    ]
    seen, learned = _views(validation), _views(training)
    for row, other, correlation in _alike(seen, learned, among=False):
        if (index := int(seen.indices[row])) not in same:
            what = f"looks the same as the training image {_name(training, int(learned.indices[other]))}"
            cases.append(validation.case(f"{what} (correlation {correlation:.3f})", index))
    what, remedy = "Validation images that are training images too", "Keep them in one set: they flatter the metrics."
    return found("train-val-overlap", "warning", "validation", what, remedy, cases)


def _name(scan: Scan, index: int) -> str:
    return f"{scan.data.image_ids[index]} ({scan.data.file_names[index]})"


def _views(scan: Scan) -> _Views:
    opened = list(scan.readable())
    field = THUMBNAIL // _COARSE
    thumbnails = np.array([facts.thumbnail for _, facts, _ in opened], np.float32)
    fields = thumbnails.reshape(-1, _COARSE, field, _COARSE, field)
    details = (fields - fields.mean((2, 4), keepdims=True)).reshape(len(opened), -1)  # [T, P], of mean 0
    lengths = np.linalg.norm(details, axis=1)
    shown = lengths >= _PLAIN * THUMBNAIL
    sizes = np.array([facts.size for _, facts, _ in opened], np.float64).reshape(-1, 2)[shown]
    return _Views(
        np.array([index for index, _, _ in opened], np.int64)[shown],
        [opened[row][2] for row in np.flatnonzero(shown)],
        details[shown] / lengths[shown, None],
        sizes[:, 1] / sizes[:, 0],
    )


def _alike(views: _Views, others: _Views, *, among: bool) -> Iterator[tuple[int, int, float]]:
    """(row, row of `others` most like it, correlation) where that is above `ALIKE`; `among`: of the earlier rows."""
    for start in range(0, len(views.indices) if len(others.indices) else 0, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(views.indices)))
        correlation = views.vectors[rows] @ others.vectors.T  # [R, T]
        like = np.abs(np.log(views.aspects[rows, None] / others.aspects)) < 0.02
        correlation[~like] = 0
        if among:
            correlation[np.arange(len(others.indices)) >= rows[:, None]] = 0
        best = correlation.argmax(1)
        for row, other in zip(rows.tolist(), best.tolist(), strict=True):
            if (value := float(correlation[row - start, other])) >= ALIKE:
                yield row, other, value
