"""metrics.csv beside the checkpoint: losses, rates and validations by step, for programs and plots."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from retinanet.files import atomic_write

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
COLUMNS = (
    *("model", "step", "epoch", "class_loss", "box_loss", "learning_rate", "images_per_second", "skipped_steps"),
    *METRICS,
)


class MetricsFile:
    """One table for all models of a folder; a run replaces the rows of its own model after the step it starts from."""

    def __init__(self, model: Path, *, start_step: int) -> None:
        self.path = model.parent / "metrics.csv"
        self.model = model.name
        rows: list[dict[str, str]] = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [r for r in csv.DictReader(file) if r["model"] != self.model or int(r["step"]) <= start_step]
        with atomic_write(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def append(self, row: Mapping[str, object]) -> None:
        """Add a row; columns that it lacks stay empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow({"model": self.model, **row})
