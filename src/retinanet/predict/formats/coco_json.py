"""COCO's results: a JSON list of detections, one a line (https://cocodataset.org/#format-results)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet.predict.formats.base import ResultsWriter, plain_columns
from retinanet.predict.results import Results

# One formatting of a row is twice as fast as one of each number, and as precise as results are.
_ENTRY = '{"image_id": %d, "category_id": %d, "bbox": [%.3f, %.3f, %.3f, %.3f], "score": %.6f}'


class CocoJsonWriter(ResultsWriter):
    """See `ResultsWriter`."""

    names_images = False

    def _open(self, path: Path) -> None:
        self._file = path.open("w", encoding="ascii")
        self._file.write("[\n")
        self._separator = ""

    def write(self, image_ids: NDArray[np.int64], results: Results) -> None:
        """Append the results of some images."""
        if len(results):
            entries = [_ENTRY % row for row in zip(*plain_columns(results), strict=True)]
            self._file.write(self._separator + ",\n".join(entries))
            self._separator = ",\n"

    def close(self) -> None:
        """End the list."""
        self._file.write("\n]\n")
        self._file.close()
