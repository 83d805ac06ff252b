"""JSON lines: a line for each image, those without detections and those that failed included."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet.predict.formats.base import ResultsWriter, plain_columns
from retinanet.predict.results import Results

_ENTRY = '{"category_id": %d, "category": %s, "bbox": [%.3f, %.3f, %.3f, %.3f], "score": %.6f}'


class JsonLinesWriter(ResultsWriter):
    """See `ResultsWriter`."""

    def _open(self, path: Path) -> None:
        self._file = path.open("w", encoding="ascii")
        self._quoted = {id_: json.dumps(name) for id_, name in self._names.items()}

    def write(self, image_ids: NDArray[np.int64], results: Results) -> None:
        """Append a line for each of the images."""
        entries: dict[int, list[str]] = {image_id: [] for image_id in image_ids.tolist()}
        for image_id, category_id, *numbers in zip(*plain_columns(results), strict=True):
            entries[image_id].append(_ENTRY % (category_id, self._quoted[category_id], *numbers))
        for (image_id, found), name in zip(entries.items(), self._file_names(image_ids), strict=True):
            line = f'{{"image_id": {image_id}, "file_name": {json.dumps(name)}, "detections": [{", ".join(found)}]}}\n'
            self._file.write(line)

    def write_failed(self, image_id: int, reason: str) -> None:
        """A line that has an error in place of detections."""
        self._file.write(json.dumps({"image_id": image_id, "error": reason}) + "\n")

    def close(self) -> None:
        """Nothing follows the last line."""
        self._file.close()
