"""What a check says: a finding, with the images and annotations that it is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

MAX_CASES = 1000
"""Cases that a finding names one by one; it counts all of them."""

Severity = Literal["error", "warning", "note"]
Split = Literal["training", "validation"]


class Case(NamedTuple):
    """One instance of a fault."""

    detail: str
    image_ids: tuple[int, ...] = ()
    file_names: tuple[str, ...] = ()
    annotation_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A fault of one kind. An `error` makes training refuse to start, or pointless; a `note` may be as intended."""

    kind: str
    """A name for programs, such as broken-image."""
    severity: Severity
    split: Split
    sentence: str
    """What was found, and the remedy."""
    count: int
    cases: tuple[Case, ...]
    """The first `MAX_CASES`."""


def found(
    kind: str, severity: Severity, split: Split, what: str, remedy: str, cases: Iterable[Case], count: int | None = None
) -> list[Finding]:
    """The finding, or none where there is no case; `count` is given where `cases` may be too many to be made."""
    kept = tuple(islice(cases, MAX_CASES)) if count is not None else tuple(cases)
    total = len(kept) if count is None else count
    if not total:
        return []
    return [Finding(kind, severity, split, f"{what}: {total:,}. {remedy}", total, kept[:MAX_CASES])]
