"""The diagnosis for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retinanet.doctor.diagnosis import Diagnosis, Reach
from retinanet.doctor.findings import Case, Finding
from retinanet.doctor.profile import Profile, Spread

_CASES = 3
_ROWS = 100
_NAME = 24
_WIDTHS = (9, 9, 9, 9, 13)


def describe(diagnosis: Diagnosis) -> str:
    """What the data are, what is wrong, how the anchors fit, and what to do."""
    lines: list[str] = []
    for split, profile in diagnosis.profiles.items():
        lines += [f"{split.capitalize()} data", *(f"  {name:<9}{value}" for name, value in facts(profile)), ""]
    lines += [*_anchors(diagnosis), "", *_findings(diagnosis.findings)]
    if diagnosis.overfit is not None:
        lines += ["", "One batch, learned by heart", f"  {lesson(diagnosis)}"]
    if diagnosis.advice:
        lines += ["", "Advice", *(f"  {advice.sentence}" for advice in diagnosis.advice)]
    return "\n".join(lines)


def facts(profile: Profile) -> Iterator[tuple[str, str]]:
    """What a set is, as (name, value)."""
    sizes = ", ".join(f"{size} ({count:,})" for size, count in profile.sizes.items())
    formats = ", ".join(f"{kind} {count:,}" for kind, count in profile.formats.items())
    sampled = f"; {profile.opened:,} of them opened" if profile.opened < profile.images else ""
    yield "images", f"{profile.images:,}{sampled}; {formats or 'none readable'}"
    yield "sizes", f"{sizes}; width {_range(profile.width)}, height {_range(profile.height)}"
    yield "aspect", f"width/height {_spread(profile.aspect, '.2f')}"
    yield "boxes", f"{profile.boxes:,} to learn; {profile.crowds:,} crowds; side {_spread(profile.side, '.0f')} pixels"
    yield "shape", f"width/height of boxes {_spread(profile.box_aspect, '.2f')}"
    yield "objects", f"an image holds {_spread(profile.objects, '.0f')}; {profile.empty:,} images are empty"


def lesson(diagnosis: Diagnosis) -> str:
    """How the overfit went, in a sentence."""
    result = diagnosis.overfit
    assert result is not None
    images = int((result.batch.image_ids >= 0).sum())
    return (
        f"{images} images, {len(result.losses)} steps: the loss went from {result.losses[0]:.2f} to "
        f"{result.losses[-1]:.2f}, and {result.found} of {result.boxes} boxes are found again."
    )


def named(case: Case) -> str:
    """A case with its ids and file names."""
    words = [
        *(
            f"image {image_id} ({name})" if name else f"image {image_id}"
            for image_id, name in zip(case.image_ids, [*case.file_names, *[""] * len(case.image_ids)], strict=False)
        ),
        *(f"annotation {annotation_id}" for annotation_id in case.annotation_ids),
    ]
    return ": ".join(part for part in (", ".join(words), case.detail) if part)


def _anchors(diagnosis: Diagnosis) -> Iterator[str]:
    config, reach = diagnosis.config, diagnosis.reach
    yield f"Anchors at --resize {config.resize} (at most {config.longest}), --anchor-scale {diagnosis.anchor_scale:g}"
    yield (
        f"  {share(reach.matched)} of the boxes match an anchor at IoU 0.5; with low-quality matches "
        f"{share(reach.learned)} are learned"
    )
    yield _row(("box after resizing", "boxes", "matched", "learned"))
    for name, group in diagnosis.reach_by_side.items():
        yield _row((name, *_numbers(group)))
    classes = diagnosis.profiles["training"].classes
    yield _row(("class", "boxes", "matched", "learned", "images", "median side"))
    rows = sorted(zip(classes, diagnosis.reach_by_class, strict=True), key=lambda row: -row[0].boxes)
    for profile, group in rows[:_ROWS]:
        yield _row((profile.name, *_numbers(group), f"{profile.images:,}", f"{profile.side.median:.0f} px"))
    if len(rows) > _ROWS:
        yield f"  … and {len(rows) - _ROWS} classes of fewer boxes"


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    yield "Findings" if findings else "Findings: none"
    for finding in findings:
        yield f"  {finding.severity}: {finding.sentence} [{finding.kind}, {finding.split}]"
        for case in finding.cases[:_CASES]:
            yield f"    {named(case)}"
        if finding.count > _CASES:
            yield f"    … and {finding.count - _CASES:,} more"


def _numbers(reach: Reach) -> tuple[str, str, str]:
    if not reach.boxes:
        return "0", "–", "–"
    return f"{reach.boxes:,}", share(reach.matched), share(reach.learned)


def share(part: float) -> str:
    """A percentage that is 100 only for all."""
    return f"{min(part, 0.999):.1%}" if part < 1 else "100%"


def _row(cells: Sequence[str]) -> str:
    name = cells[0] if len(cells[0]) <= _NAME else cells[0][: _NAME - 1] + "…"
    numbers = (f"{cell:>{width}}" for cell, width in zip(cells[1:], _WIDTHS, strict=False))
    return f"    {name:<{_NAME}}" + "".join(numbers)


def _range(spread: Spread) -> str:
    return f"{spread.least:.0f}" if spread.least == spread.most else f"{spread.least:.0f} … {spread.most:.0f}"


def _spread(spread: Spread, digits: str) -> str:
    return f"{spread.median:{digits}} (median), {spread.least:{digits}} … {spread.most:{digits}}"
