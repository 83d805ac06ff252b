"""What is wrong with the classes: without examples, or perhaps one class under two names."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from retinanet.data.annotations import CocoData
from retinanet.data.classes import require_same_classes
from retinanet.doctor.findings import Case, Finding, found
from retinanet.errors import DataError

_LONG_ENOUGH = 5
"""Letters of a name from which on one wrong letter is likelier a slip than another word."""


def check_classes(training: CocoData, validation: CocoData | None) -> list[Finding]:
    """Classes that can't be learned or scored, and names that are nearly the same."""
    assert training.classes is not None
    taught = class_counts(training)
    findings: list[Finding] = []
    missing = [index for index in range(len(taught)) if not taught[index]]
    if validation is not None:
        findings += _differing(training, validation)
        assert validation.classes is not None
        scored = dict(zip(validation.classes.ids, class_counts(validation).tolist(), strict=True))
        untaught = [index for index in missing if scored.get(training.classes.ids[index])]
        what, remedy = "Classes with boxes in the validation set alone", "Their AP will be 0: give examples to both."
        cases = [Case(f"{_named(training, i)}: {scored[training.classes.ids[i]]} validation boxes") for i in untaught]
        findings += found("class-only-in-val", "warning", "validation", what, remedy, cases)
        missing = [index for index in missing if index not in untaught]
    what, remedy = "Classes without a box to learn from", "Remove them, or add examples."
    cases = [Case(_named(training, index)) for index in missing]
    findings += found("class-without-boxes", "warning", "training", what, remedy, cases)
    what, remedy = "Pairs of nearly the same class name", "Where a pair means one class, join them."
    cases = [Case(f"'{one}' and '{other}'") for one, other in similar_names(training.classes.names)]
    return findings + found("similar-class-names", "warning", "training", what, remedy, cases)


def class_counts(data: CocoData) -> np.ndarray:
    """How many boxes of each class can be trained on, int64 `[C]`."""
    assert data.classes is not None
    counts: np.ndarray = np.bincount(data.labels[data.usable & ~data.crowd], minlength=len(data.classes))
    return counts


def similar_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs that differ in case, spaces and signs, in a plural's ending, or in one letter of a long word."""
    plain = [_plain(name) for name in names]
    return [(names[i], names[j]) for i, j in combinations(range(len(names)), 2) if _alike(plain[i], plain[j])]


def _differing(training: CocoData, validation: CocoData) -> list[Finding]:
    assert training.classes is not None
    try:
        require_same_classes(validation, training.classes)
    except DataError as error:
        what, remedy = "Differences to the classes of the training set", "Training refuses to start."
        return found("different-classes", "error", "validation", what, remedy, [Case(str(error))])
    return []


def _named(data: CocoData, index: int) -> str:
    assert data.classes is not None
    return f"{data.classes.ids[index]} {data.classes.names[index]}"


def _plain(name: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isalnum())


def _alike(a: str, b: str) -> bool:
    if a == b:
        return bool(a)
    a_rest, b_rest = _without_common_start(a, b)
    if len(a) - len(a_rest) >= 3 and {a_rest, b_rest} in ({"", "s"}, {"", "es"}):
        return True
    a_rest, b_rest = _without_common_start(a_rest[::-1], b_rest[::-1])
    if min(len(a), len(b)) < _LONG_ENOUGH or any(letter.isdigit() for letter in a_rest + b_rest):
        return False
    swapped = len(a_rest) == 2 and a_rest == b_rest[::-1]
    return swapped or max(len(a_rest), len(b_rest)) <= 1


def _without_common_start(a: str, b: str) -> tuple[str, str]:
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    return a[same:], b[same:]
