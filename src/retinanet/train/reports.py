"""What the processes of a run tell the one that started them: who they are, and how each ended."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from retinanet.files import atomic_write

_FOLDER = "RETINANET_REPORTS"
"""Environment variable that names the folder; without it nobody listens."""


@dataclass(frozen=True)
class Report:
    """How a process ended."""

    rank: int
    sentence: str
    exit_code: int
    crashed: bool
    """Ended by something else than a mistake of the user: starting again may help."""
    at: float
    traceback: str = ""


def open_folder(folder: Path) -> None:
    """Write into `folder` from now on: the process says its number there, so that it can be signalled."""
    os.environ[_FOLDER] = str(folder)
    with atomic_write(folder / f"{os.getpid()}.pid") as temporary:
        temporary.write_text(str(os.getpid()))


def are_read() -> bool:
    """Whether our own launcher started this process."""
    return _FOLDER in os.environ


def write(sentence: str, *, exit_code: int, crashed: bool, traceback: str = "") -> None:
    """Leave the report of this process, unless it left one."""
    folder = os.environ.get(_FOLDER)
    rank = int(os.environ.get("RANK", "0"))
    if folder is None or (Path(folder) / f"{rank}.json").exists():
        return
    content = {"rank": rank, "sentence": sentence, "exit_code": exit_code, "crashed": crashed, "at": time.time()}
    content["traceback"] = traceback
    with atomic_write(Path(folder) / f"{rank}.json") as temporary:
        temporary.write_text(json.dumps(content))


def read(folder: Path) -> list[Report]:
    """All reports, the first that was written first."""
    found = [Report(**json.loads(path.read_text())) for path in folder.glob("[0-9]*.json")]
    return sorted(found, key=lambda report: report.at)


def processes(folder: Path) -> list[int]:
    """Numbers of the processes that began."""
    return [int(path.read_text()) for path in folder.glob("[0-9]*.pid")]
