"""metrics.csv beside the checkpoint: losses, rates and validations by step, for programs and plots."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from retinanet.errors import RetinaNetError, UsageError
from retinanet.files import atomic_write

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
COLUMNS = (
    *("model", "step", "epoch", "class_loss", "box_loss", "learning_rate", "images_per_second", "skipped_steps"),
    *METRICS,
)


class MetricsFile:
    """One table for all models of a folder; a run replaces the rows of its own model after the step it starts from.

    `validation_due`: the validation after that step is still to be done, so a row that it has already is replaced too.
    """

    def __init__(self, model: Path, *, start_step: int, validation_due: bool = False) -> None:
        self.path = model.parent / "metrics.csv"
        self.model = model.name
        rows = self._kept(start_step, validation_due) if self.path.exists() else []
        with atomic_write(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def append(self, row: Mapping[str, object]) -> None:
        """Add a row; columns that it lacks stay empty.

        Raises:
            RetinaNetError: the disk is full, or the file may not be written any more.
        """
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, COLUMNS).writerow({"model": self.model, **row})
        except OSError as error:
            raise RetinaNetError(
                f"Cannot write {self.path} ({error.strerror}); mend it, and give the same command to go on from the "
                "last checkpoint."
            ) from error

    def _kept(self, start_step: int, validation_due: bool) -> list[dict[str, str]]:
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise UsageError(
                    f"{self.path} should be a table of `retinanet train`, but has other columns; move it, or train "
                    "into another folder."
                )
            whole = [row for row in reader if None not in row.values()]  # a run that was killed may leave half a row

        def is_replaced(row: dict[str, str]) -> bool:
            step = int(row["step"])
            return step > start_step or (validation_due and step == start_step and row["AP"] != "")

        return [row for row in whole if row["model"] != self.model or not is_replaced(row)]
