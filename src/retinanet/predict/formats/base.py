"""What every format of a results file offers; a new one is one new file beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from retinanet.data.annotations import CocoData
from retinanet.predict.results import Results
from retinanet.types import ClassMap


class ResultsWriter(ABC):
    """Writes results into a file as they come; its memory does not grow with their number."""

    names_images: ClassVar = True
    """Whether the file itself says which id is which image."""

    def __init__(self, path: Path, data: CocoData, classes: ClassMap) -> None:
        """Begin the file at `path` for images of `data` and a model's `classes`."""
        self._data = data
        self._names = dict(zip(classes.ids, classes.names, strict=True))
        self._open(path)

    @abstractmethod
    def _open(self, path: Path) -> None:
        """Begin the file."""

    @abstractmethod
    def write(self, image_ids: NDArray[np.int64], results: Results) -> None:
        """Append the results of some images, `[K]` ids; an image may have none."""

    def write_failed(self, image_id: int, reason: str) -> None:  # noqa: B027  # most formats have no place for it
        """Note an image that could not be read, in a format that lists images."""

    @abstractmethod
    def close(self) -> None:
        """Write what is still to be written; without this call the file is not whole."""

    def _file_names(self, image_ids: NDArray[np.int64]) -> list[str]:
        return [self._data.file_names[index] for index in self._data.indices_of(image_ids).tolist()]


def plain_columns(results: Results) -> list[list[Any]]:
    """Python numbers: image ids, category ids, x, y, widths, heights, scores."""
    return [
        results.image_ids.tolist(),
        results.category_ids.tolist(),
        *results.xywh.T.tolist(),
        results.scores.tolist(),
    ]
