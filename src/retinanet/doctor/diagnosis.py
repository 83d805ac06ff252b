"""All that the doctor knows of a data set; the terminal's text, the JSON file and the page are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from retinanet.config import DataConfig
from retinanet.data.annotations import CocoData
from retinanet.doctor.advice import Advice
from retinanet.doctor.coverage import SIDES, Coverage, Targets, side_groups
from retinanet.doctor.findings import Finding
from retinanet.doctor.overfit import Overfit
from retinanet.doctor.profile import Profile


class Reach(NamedTuple):
    """How well the anchors cover a group of boxes."""

    boxes: int
    matched: float
    """Share that an anchor matches at the threshold; 0 without boxes, as the next."""
    learned: float
    """Share that any anchor learns, low-quality matches included."""

    @classmethod
    def of(cls, coverage: Coverage, rows: np.ndarray) -> Reach:
        """Of the boxes whose flags, bool `[B]`, are true."""
        if not rows.any():
            return cls(0, 0.0, 0.0)
        return cls(int(rows.sum()), float(coverage.matched[rows].mean()), float(coverage.learned[rows].mean()))


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the data are, what is wrong, what to do."""

    training: CocoData
    validation: CocoData | None
    config: DataConfig
    anchor_scale: float
    profiles: dict[str, Profile]
    """By split: training, and validation where there is one."""
    findings: tuple[Finding, ...]
    """Errors first."""
    targets: Targets
    coverage: Coverage
    advice: tuple[Advice, ...]
    overfit: Overfit | None

    @property
    def pointless(self) -> bool:
        """Whether training would refuse to start, or could not learn."""
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def reach(self) -> Reach:
        """Of all boxes."""
        return Reach.of(self.coverage, np.ones(len(self.targets.rows), bool))

    @property
    def reach_by_class(self) -> tuple[Reach, ...]:
        """In the order of the classes."""
        assert self.training.classes is not None
        return tuple(
            Reach.of(self.coverage, self.targets.labels == label) for label in range(len(self.training.classes))
        )

    @property
    def reach_by_side(self) -> dict[str, Reach]:
        """By the boxes' size after resizing, such as '32–64 px'."""
        groups = side_groups(self.targets.sides)
        names = [f"{low}–{high} px" for low, high in pairwise(SIDES)] + [f"{SIDES[-1]} px up"]
        return {name: Reach.of(self.coverage, groups == group) for group, name in enumerate(names)}
