"""Which format a results file has, by its ending."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path

from retinanet import extras
from retinanet.data.annotations import CocoData
from retinanet.errors import UsageError
from retinanet.files import atomic_write, is_device
from retinanet.predict.formats.base import ResultsWriter
from retinanet.predict.formats.coco_json import CocoJsonWriter
from retinanet.types import ClassMap

_FORMATS = {
    ".json": ("coco_json", "CocoJsonWriter"),
    ".jsonl": ("json_lines", "JsonLinesWriter"),
    ".csv": ("csv", "CsvWriter"),
    ".parquet": ("parquet", "ParquetWriter"),
}
"""Ending → the file beside this one and its class."""


@contextlib.contextmanager
def results_writer(output: Path, data: CocoData, classes: ClassMap, folder: Path) -> Iterator[ResultsWriter]:
    """A writer of `output`, which appears whole at the end, or not at all if anything fails; it grows in `folder`.

    Raises as `atomic_write`.
    """
    with atomic_write(output, folder) as temporary:
        writer = results_format(output)(temporary, data, classes)
        yield writer
        writer.close()


def results_format(output: Path) -> type[ResultsWriter]:
    """The class that writes files of this ending; COCO's JSON for a pipe or a device.

    Raises:
        UsageError: there is no such format, or a package that it needs is missing.
    """
    if is_device(output):
        return CocoJsonWriter
    ending = output.suffix.lower()
    if ending not in _FORMATS:
        raise UsageError(
            f"--output takes a name that ends in {', '.join(_FORMATS)}, but is {output}; .json is COCO's format."
        )
    if ending == ".parquet":
        extras.require("pyarrow.parquet", "parquet", "Writing Parquet")
    module, name = _FORMATS[ending]
    writer: type[ResultsWriter] = getattr(importlib.import_module(f"retinanet.predict.formats.{module}"), name)
    return writer
