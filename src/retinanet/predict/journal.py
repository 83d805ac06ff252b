"""Results of finished images, on disk as they come: what a run leaves behind when it is ended half-way.

Each process writes a part of its own, two files: rows of numbers, and a line of JSON for each batch that says whose
they are and where they stand. The rows are written first, so that a line vouches for what is there.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet.errors import UsageError
from retinanet.files import atomic_write
from retinanet.predict.results import Results

_PARTS = ("*.done", "*.rows")
_DIGESTS = ("model", "images")
"""What of a run's description is only a checksum."""
_ROW = np.dtype([("image_id", "<i8"), ("category_id", "<i8"), ("xywh", "<f8", 4), ("score", "<f8")])


class Finished(NamedTuple):
    """Some images that are done."""

    image_ids: NDArray[np.int64]
    """`[K]`"""
    results: Results
    """All of theirs; an image may have none."""


class PartWriter:
    """Appends to part `number` of the journal in `folder`."""

    def __init__(self, folder: Path, number: int) -> None:
        self._rows = (folder / f"{number}.rows").open("wb")
        self._lines = (folder / f"{number}.done").open("w", encoding="ascii")

    def append(self, finished: Finished) -> None:
        """Note images that are done; when this returns, ending the process by force loses nothing of them."""
        results = finished.results
        rows = np.empty(len(results), _ROW)
        columns = (results.image_ids, results.category_ids, results.xywh, results.scores)
        for name, column in zip(_ROW.names or (), columns, strict=True):
            rows[name] = column
        start = self._rows.tell()
        self._rows.write(rows.tobytes())
        self._rows.flush()
        self._line({"images": finished.image_ids.tolist(), "start": start, "rows": len(rows)})

    def close(self, broken: dict[str, str]) -> None:
        """Note that all has been tried, and which files (path → sentence) could not be read."""
        self._line({"broken": broken})
        self._rows.close()
        self._lines.close()

    def _line(self, content: dict[str, Any]) -> None:
        self._lines.write(json.dumps(content) + "\n")
        self._lines.flush()


class PartReader:
    """Follows part `number` of the journal in `folder`, which may still grow."""

    def __init__(self, folder: Path, number: int) -> None:
        self._rows, self._lines = folder / f"{number}.rows", folder / f"{number}.done"
        self._read = 0  # bytes of the lines
        self.broken: dict[str, str] = {}

    def read_new(self) -> Iterator[Finished]:
        """What has come since the last call. What a killed process, or a power cut, left half-written is not done."""
        if not self._lines.exists():
            return
        with self._lines.open("rb") as lines, self._rows.open("rb") as rows:
            lines.seek(self._read)
            while (line := lines.readline()).endswith(b"\n"):
                self._read = lines.tell()
                content = json.loads(line)
                self.broken.update(content.get("broken", {}))
                if "images" in content:
                    rows.seek(content["start"])
                    block = rows.read(content["rows"] * _ROW.itemsize)
                    if len(block) < content["rows"] * _ROW.itemsize:
                        continue
                    found = np.frombuffer(block, _ROW)
                    results = Results(found["image_id"], found["category_id"], found["xywh"], found["score"])
                    yield Finished(np.array(content["images"], np.int64), results)


class Journal:
    """The folder of an unfinished run's parts."""

    def __init__(self, folder: Path, run: dict[str, Any], *, resume: bool) -> None:
        """Open the journal of `run` (what it does it with: option → value), or begin it where there is none to resume.

        Raises:
            UsageError: the folder is something else, another process is using it, or it is another run's.
        """
        self.folder = folder
        description, run = folder / "run.json", json.loads(json.dumps(run))
        try:
            folder.mkdir()
        except FileExistsError as error:
            if not description.is_file():
                raise UsageError(f"{folder} should hold unfinished results, but does not; move it away.") from error
        except OSError as error:
            raise UsageError(f"Cannot make {folder} ({error.strerror}); give another --output.") from error
        self._lock = (folder / "lock").open("w")
        self._lock_or_refuse()
        if resume and description.is_file():
            _require_same(run, json.loads(description.read_bytes()), folder)
        else:
            _clear(folder, *_PARTS)
            with atomic_write(description) as temporary:
                temporary.write_text(json.dumps(run, indent=1), encoding="ascii")
        _clear(folder, ".*")  # of a run that was ended by force
        self.parts = sorted(int(path.stem) for path in folder.glob("*.done"))

    def finished(self) -> Iterator[Finished]:
        """All that is done."""
        for number in self.parts:
            yield from PartReader(self.folder, number).read_new()

    def new_part(self) -> int:
        """The number of a part that is not there yet."""
        self.parts.append(max(self.parts, default=-1) + 1)
        return self.parts[-1]

    def remove(self) -> None:
        """Take the folder away, when its results are elsewhere or there are none."""
        shutil.rmtree(self.folder)

    def _lock_or_refuse(self) -> None:
        try:
            # Of this process alone: readers that it has forked may outlive it by seconds, and don't write.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"Another run is writing {self.folder.stem} at this moment; wait for it, or give another --output."
            ) from error
        except OSError:  # some network drives know no locks
            pass


def _require_same(run: dict[str, Any], kept: dict[str, Any], folder: Path) -> None:
    different = [name for name in run if run[name] != kept.get(name)]
    if different:
        found = ", ".join(f"{name} was {kept.get(name)}" for name in different if name not in _DIGESTS)
        found = found or f"the {' and the '.join(different)} changed"
        raise UsageError(
            f"--resume needs the same model, images and options as the run that {folder} is from, but {found}; "
            "leave --resume out to start anew."
        )


def _clear(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()
