"""Parquet (https://parquet.apache.org): a row for each detection, in groups, compressed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet import extras
from retinanet.predict.formats.base import ResultsWriter
from retinanet.predict.results import Results, concatenate

_GROUP = 1 << 16
"""Rows that are held in memory, and written at once: few small groups make a file slow to read."""


class ParquetWriter(ResultsWriter):
    """See `ResultsWriter`. Columns are those of the CSV."""

    def _open(self, path: Path) -> None:
        self._arrow = extras.require("pyarrow", "parquet", "Writing Parquet")
        parquet = extras.require("pyarrow.parquet", "parquet", "Writing Parquet")
        text = self._arrow.dictionary(self._arrow.int32(), self._arrow.string())
        types = {"image_id": self._arrow.int64(), "file_name": text}
        types |= {"category_id": self._arrow.int64(), "category": text}
        types |= dict.fromkeys(("x", "y", "width", "height", "score"), self._arrow.float64())
        self._schema = self._arrow.schema(list(types.items()))
        self._file = parquet.ParquetWriter(path, self._schema)
        self._waiting: list[Results] = []

    def write(self, image_ids: NDArray[np.int64], results: Results) -> None:
        """Append the results of some images."""
        self._waiting.append(results)
        if sum(map(len, self._waiting)) >= _GROUP:
            self._write_group()

    def close(self) -> None:
        """Write the last group and the index."""
        self._write_group()
        self._file.close()

    def _write_group(self) -> None:
        results = concatenate(self._waiting)
        self._waiting = []
        columns = [
            results.image_ids,
            self._text(results.image_ids, self._file_names),
            results.category_ids,
            self._text(results.category_ids, lambda ids: [self._names[id_] for id_ in ids.tolist()]),
            *np.ascontiguousarray(results.xywh.T),
            results.scores,
        ]
        arrays = [self._arrow.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._file.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))

    def _text(self, ids: NDArray[np.int64], names_of: Callable[[NDArray[np.int64]], list[str]]) -> Any:
        """The names of `ids`, each stored once; bytes that are no text are escaped, as Parquet's text is UTF-8."""
        unique, places = np.unique(ids, return_inverse=True)
        names = [name.encode("utf-8", "backslashreplace").decode() for name in names_of(unique)]
        return self._arrow.DictionaryArray.from_arrays(
            self._arrow.array(places, self._arrow.int32()), self._arrow.array(names, self._arrow.string())
        )
