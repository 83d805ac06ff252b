"""MODEL.problems.tsv: what a training left out or changed, for whoever made the data."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from retinanet.data.annotations import CocoData, Problem

_UNUSABLE = "unusable image"


class ProblemReport:
    """The list beside a checkpoint, which lies there only if there is something to list.

    It is written when the run begins, and again when images turned out to be unusable; each time its counts go to
    stderr.
    """

    def __init__(self, model: Path, data: CocoData) -> None:
        self.path = model.with_name(f"{model.stem}.problems.tsv")
        self.data = data
        counts = data.problem_counts()
        if counts:
            self._write(counts)
        else:
            self.path.unlink(missing_ok=True)  # an earlier run's

    def add_images(self, broken: Mapping[str, str]) -> None:
        """List the images of `broken` too, path → what is wrong with it."""
        if not broken:
            return
        id_of = {str(self.data.image_path(index)): int(id_) for index, id_ in enumerate(self.data.image_ids)}
        counts = [self.data.problem_counts(), f"{_UNUSABLE}: {len(broken)}"]
        self._write(
            ", ".join(filter(None, counts)),
            [Problem(_UNUSABLE, id_of[path], sentence) for path, sentence in broken.items()],
        )

    def _write(self, counts: str, images: list[Problem] | None = None) -> None:
        self.data.write_report(self.path, images or ())
        print(f"Left out or changed ({counts}): listed in {self.path}", file=sys.stderr)
