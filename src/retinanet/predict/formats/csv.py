"""Comma-separated values: a row for each detection, under a row of names."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet.predict.formats.base import ResultsWriter, plain_columns
from retinanet.predict.results import Results

COLUMNS = ("image_id", "file_name", "category_id", "category", "x", "y", "width", "height", "score")


class CsvWriter(ResultsWriter):
    """See `ResultsWriter`."""

    def _open(self, path: Path) -> None:
        # File names may hold any bytes; these come out as they were.
        self._file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(COLUMNS)

    def write(self, image_ids: NDArray[np.int64], results: Results) -> None:
        """Append the results of some images."""
        found, category_ids, *numbers = plain_columns(results)
        categories = [self._names[category_id] for category_id in category_ids]
        files = self._file_names(results.image_ids)
        self._rows.writerows(zip(found, files, category_ids, categories, *numbers, strict=True))

    def close(self) -> None:
        """Nothing follows the last row."""
        self._file.close()
