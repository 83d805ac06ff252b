"""`retinanet train` in a process of its own, to be sent real signals."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from command_line import SMALL, Shapes, checkpoint, words_of

LIMIT = 240
"""Seconds that anything may take on a busy machine."""


def command(model: Path, shapes: Shapes, **options: Any) -> list[str]:
    """Its words."""
    words = words_of({**shapes.training, **SMALL, **options})
    return [sys.executable, "-m", "retinanet.cli", "train", str(model), *words]


def start(model: Path, shapes: Shapes, **options: Any) -> subprocess.Popen[str]:
    """Start it, with stderr to be read, as the leader of a process group."""
    return begin(command(model, shapes, **options))


def begin(words: list[str]) -> subprocess.Popen[str]:
    """The same for any command."""
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_step(process: subprocess.Popen[str], model: Path, step: int) -> None:
    """Until the checkpoint has come to `step`; then for a moment more, of random length."""
    end = time.monotonic() + LIMIT
    while not model.exists() or checkpoint(model)["training_state"]["step"] < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.01)
    time.sleep(random.random() * 0.2)


def ranks_of(process: subprocess.Popen[str], word: str = "spawn_main") -> list[int]:
    """Its children that train, known by a word of their command."""
    return children_of(process.pid, word)


def children_of(number: int, word: str) -> list[int]:
    """The children of a process whose command has a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_text()
        except OSError:  # it ended meanwhile
            continue
        if parent == number and word in words:
            found.append(int(folder.name))
    return found


def gone(pids: list[int]) -> bool:
    """Whether these processes ended, soon."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        alive = [pid for pid in pids if _runs(pid)]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def _runs(pid: int) -> bool:
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what it said since it was last read."""
    _, said = process.communicate(timeout=LIMIT)
    return process.returncode, said


def kill_group(process: subprocess.Popen[str]) -> None:
    """Whatever is left of it, after a test that failed: torchrun's ranks are groups of their own, and hold its pipe."""
    ranks = ranks_of(process, "retinanet.cli")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)
    process.communicate()
