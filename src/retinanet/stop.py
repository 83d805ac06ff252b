"""Ctrl-C and SIGTERM during long work: the first finishes what is begun and saves, the second stops at once."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """Inside its context, `requested` turns true at the first SIGINT or SIGTERM; the next one acts as usual.

    One rank of several takes every signal for the same request (`repeated`): it may reach a rank by itself, with its
    whole process group and from the launcher, once or thrice. To stop at once is then the launcher's work.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *, repeated: bool = False) -> None:
        self.requested = False
        self._repeated = repeated
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self._repeated:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt as SIGINT does: so what is half-written is removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # whoever has it ignored, or handled, knows why
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def resume_command() -> str:
    """The end of a sentence that says how to go on: the command that was given, without --override."""
    words = sys.argv[1:]
    if words[:1] != ["train"]:  # called from Python
        return "give the same command to go on."
    again = [word for word in words if not word.startswith("--override")]
    return f"give the same command to go on: retinanet {shlex.join(again)}"
