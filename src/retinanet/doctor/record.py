"""The diagnosis for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retinanet import __version__
from retinanet.doctor.diagnosis import Diagnosis
from retinanet.doctor.profile import Profile
from retinanet.files import atomic_write


def write_record(path: str, diagnosis: Diagnosis) -> None:
    """Write JSON to the file at `path`, or to stdout for '-'."""
    text = json.dumps(to_record(diagnosis), indent=1)
    if path == "-":
        print(text)
        return
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def to_record(diagnosis: Diagnosis) -> dict[str, Any]:
    """Plain values. A finding lists its first 1,000 cases and counts all."""
    lesson = diagnosis.overfit
    return {
        "version": __version__,
        "pointless": diagnosis.pointless,
        "resize": diagnosis.config.resize,
        "max_size": diagnosis.config.longest,
        "anchor_scale": diagnosis.anchor_scale,
        "data": {split: _profile(profile) for split, profile in diagnosis.profiles.items()},
        "findings": [
            {
                **{"kind": finding.kind, "severity": finding.severity, "split": finding.split},
                **{"sentence": finding.sentence, "count": finding.count},
                "cases": [case._asdict() for case in finding.cases],
            }
            for finding in diagnosis.findings
        ],
        "anchors": {
            "all": diagnosis.reach._asdict(),
            "by_class": [reach._asdict() for reach in diagnosis.reach_by_class],
            "by_side": {name: reach._asdict() for name, reach in diagnosis.reach_by_side.items()},
        },
        "advice": [{"sentence": advice.sentence, "options": advice.options} for advice in diagnosis.advice],
        "overfit": None
        if lesson is None
        else {"losses": lesson.losses, "boxes": lesson.boxes, "found": lesson.found, "learned": lesson.learned},
    }


def _profile(profile: Profile) -> dict[str, Any]:
    values = {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in vars(profile).items()}
    values["classes"] = [{**each._asdict(), "side": each.side._asdict()} for each in profile.classes]
    return values
