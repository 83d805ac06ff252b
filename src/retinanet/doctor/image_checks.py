"""What is wrong with single image files."""

from __future__ import annotations

from retinanet.data.images import ImageFacts
from retinanet.doctor.findings import Case, Finding, Split, found
from retinanet.doctor.scan import Scan
from retinanet.errors import DataError

_TURNED = {2: "mirrored", 3: "upside down", 4: "upside down and mirrored"}


def check_images(scan: Scan, split: Split) -> list[Finding]:
    """Files that can't be used, and sizes and orientations that the annotations do not share."""
    broken = [scan.case(str(facts), index) for index, facts, _ in scan.opened if isinstance(facts, DataError)]
    findings = found(
        "broken-image", "warning", split, "Image files that can't be used", "Training leaves them out.", broken
    )
    sideways: list[Case] = []
    wrong: list[Case] = []
    doubtful: list[Case] = []
    for index, facts, _ in scan.readable():
        declared = (int(scan.data.sizes[index, 0]), int(scan.data.sizes[index, 1]))
        if facts.size == declared:
            if facts.orientation in _TURNED:
                detail = f"its EXIF orientation {facts.orientation} says: stored {_TURNED[facts.orientation]}"
                doubtful.append(scan.case(detail, index))
        elif facts.stored_size == declared:
            detail = f"{_wide_high(declared)} as annotated, but EXIF orientation {facts.orientation} shows it turned"
            sideways.append(scan.case(detail, index))
        else:
            wrong.append(scan.case(_mismatch(declared, facts), index))
    findings += found(
        "exif-rotation",
        "warning",
        split,
        "Images whose boxes did not follow their EXIF rotation",
        "Turn the pixels and drop the tag, or correct the annotations: training leaves them out.",
        sideways,
    )
    findings += found(
        "wrong-size",
        "warning",
        split,
        "Images of another size than the annotations declare",
        "Correct it: training leaves them out.",
        wrong,
    )
    findings += found(
        "exif-flip",
        "note",
        split,
        "Images that their EXIF tag turns over, which their size can't confirm",
        "Look whether the boxes follow.",
        doubtful,
    )
    return findings


def usable_images(scan: Scan) -> list[int]:
    """Which of the opened images training would take."""
    return [index for index, facts, _ in scan.readable() if facts.size == tuple(scan.data.sizes[index])]


def _mismatch(declared: tuple[int, int], facts: ImageFacts) -> str:
    swapped = " (width and height are swapped)" if facts.size == declared[::-1] else ""
    return f"declared as {_wide_high(declared)}, but is {_wide_high(facts.size)}{swapped}"


def _wide_high(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"
