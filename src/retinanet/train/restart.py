"""Whether torchrun has started this run again, and what the run had saved by then."""

from __future__ import annotations

import os
import time
from pathlib import Path

from retinanet.train import reports

_MARGIN = 0.5
"""Seconds: clocks are coarse, and no run has saved anything so soon after its launcher began."""


def saved_since_torchrun_began(path: Path) -> bool:
    """Whether torchrun started this process, and the file at `path` was written since torchrun itself began.

    What lay there when the command was given is older, so such a file is the run's own: torchrun has started the
    processes again, because one died or because a machine joined. Our own launcher keeps count by itself.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or reports.are_read():
        return False
    try:
        age = time.time() - path.stat().st_mtime
        return age < _age_of_process(os.getppid()) - _MARGIN
    except FileNotFoundError:  # there is no such file, or the launcher has just died
        return False


def _age_of_process(number: int) -> float:
    """Seconds since it began; see proc(5)."""
    after_name = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
    began = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # after the machine did
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began
