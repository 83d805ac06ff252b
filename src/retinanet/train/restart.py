"""Whether a checkpoint is the run's own, when something has started it again."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from retinanet.train import reports

_RUN = "TORCHELASTIC_RUN_ID"
_MARGIN = 0.5
"""Seconds: clocks are coarse, and no run has saved anything so soon after its launcher began."""


def written(path: Path) -> tuple[int, int] | None:
    """Tells one state of a file from another; None where there is none."""
    with suppress(FileNotFoundError):
        state = path.stat()
        return state.st_ino, state.st_mtime_ns
    return None


def saved_since_torchrun_began(path: Path) -> bool:
    """Whether torchrun started this process, and the file at `path` was written since torchrun itself began.

    What lay there when the command was given is older, so such a file is the run's own: torchrun has started the
    processes again, because one died or because a machine joined. Our own launcher keeps count by itself.
    """
    if _RUN not in os.environ or reports.are_read():
        return False
    try:
        age = time.time() - path.stat().st_mtime
        return age < _age_of_process(_torchrun()) - _MARGIN
    except FileNotFoundError:  # there is no such file, or the launcher has just died
        return False


def _torchrun() -> int:
    """Its process: the nearest ancestor that was not itself started with what torchrun tells the ranks.

    Mostly the parent, but a script, a profiler or numactl may stand between.
    """
    process = os.getppid()
    while _was_told_of_run(process):
        process = int(_status(process)[1])
    return process


def _was_told_of_run(process: int) -> bool:
    with suppress(PermissionError):
        words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        return any(word.startswith(f"{_RUN}=".encode()) for word in words)
    return False


def _age_of_process(process: int) -> float:
    """Seconds since it began."""
    began = int(_status(process)[19]) / os.sysconf("SC_CLK_TCK")  # after the machine did
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def _status(process: int) -> list[str]:
    """What proc(5) says of it in `stat`, from its third field on: state, parent, …"""
    return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
