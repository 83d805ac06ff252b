"""One of the processes that the launcher starts: how it begins, and how it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from retinanet.errors import Interrupted, ReaderLost, explain
from retinanet.train import reports
from retinanet.train.job import TrainingJob

SIGNALS = {signal.SIGINT, signal.SIGTERM}
"""The launcher has a process begin with these blocked, until it can tell what they mean."""
_PR_SET_PDEATHSIG = 1
_AFTER_OTHERS = 2.0
"""Seconds that a rank which failed stays: where it failed for the death of another, that one is seen first."""


def run_rank(launcher: int, folder: Path, train: Callable[[TrainingJob], None], job: TrainingJob) -> None:
    """What each process runs: `train(job)`; how it ended is left in `folder`."""
    _die_with(launcher)
    reports.open_folder(folder)
    for number in SIGNALS:
        signal.signal(number, _leave)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if (folder / "stop").exists():  # it came before this process could be signalled
            raise KeyboardInterrupt
        train(job)
    except Interrupted as error:
        reports.write(str(error), exit_code=error.exit_code, crashed=False)
    except KeyboardInterrupt:  # asked to end by the launcher, which knows why
        _exit(Interrupted.exit_code)
    except Exception as error:
        _exit(_report(error))


def _report(error: Exception) -> int:
    """Tell the launcher how this process ends; return its exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # it ends anyway; the launcher would hurry it once another one has ended
    known = explain(error)
    if known is not None and not isinstance(known, ReaderLost):
        reports.write(str(known), exit_code=known.exit_code, crashed=False)
        return known.exit_code
    rank = os.environ["RANK"]
    if known is not None:
        reports.write(f"Rank {rank} failed: {known}", exit_code=1, crashed=True)
    else:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        reports.write(f"Rank {rank} failed ({reason}).", exit_code=1, crashed=True, traceback=traceback.format_exc())
    time.sleep(_AFTER_OTHERS)
    return 1


def _exit(code: int) -> NoReturn:
    """End at once: within its usual end this process could wait for ranks that are elsewhere, by NCCL's own rules."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _leave(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _die_with(launcher: int) -> None:
    """Have the kernel end this process when its launcher is killed: nobody would stop it, or read its report."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        raise SystemExit(1)
