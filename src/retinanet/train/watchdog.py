"""Who is missing when a run stands still: each rank publishes how far it has come, and the one that waits compares."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from retinanet.train import reports

_POLL = 1.0


class Watchdog:
    """Ends this process when it has waited for `patience` seconds, and says for which rank.

    A rank's progress is the number of meetings that it came to; all ranks come to the same ones in the same order.
    The process ends by force, since a thread that waits within a collective takes no exception.
    """

    current: Watchdog | None = None

    def __init__(self, store: Any, rank: int, world: int, patience: float) -> None:
        self._store, self._rank, self._world, self._patience = store.clone(), rank, world, patience
        self._meetings = 0
        self._waits_for: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> Watchdog:
        Watchdog.current = self
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Watchdog.current = None
        self._ended.set()
        self._thread.join(timeout=10 * _POLL)

    @contextmanager
    def meeting(self, name: str) -> Iterator[None]:
        """Around the wait for the other ranks."""
        self._meetings += 1
        self._waits_for = name
        try:
            yield
        finally:
            self._waits_for = None

    def _watch(self) -> None:
        seen, since = -1, time.monotonic()
        while not self._ended.wait(_POLL):
            meetings, name = self._meetings, self._waits_for
            try:
                if meetings != seen:
                    self._store.set(f"meetings/{self._rank}", str(meetings))
                    seen, since = meetings, time.monotonic()
                elif name is not None and time.monotonic() - since > self._patience:
                    self._end(name, meetings)
            except RuntimeError:  # the store is gone, and the run with it
                return

    def _end(self, name: str, meetings: int) -> None:
        missing = [str(rank) for rank in range(self._world) if self._meetings_of(rank) < meetings]
        absent = f"rank {' and rank '.join(missing)} did not come" if missing else "nothing came from the other ranks"
        sentence = (
            f"Rank {self._rank} waited {self._patience:.0f} seconds for {name}, but {absent}: look for what holds it "
            "up (its disk, its GPU, its network), and give the same command to go on from the last checkpoint."
        )
        reports.write(sentence, exit_code=1, crashed=True)
        os.write(2, f"retinanet: {sentence}\n".encode())
        os._exit(1)

    def _meetings_of(self, rank: int) -> int:
        key = f"meetings/{rank}"
        return int(self._store.get(key)) if self._store.check([key]) else 0


@contextmanager
def meeting(name: str) -> Iterator[None]:
    """`Watchdog.meeting` where one watches."""
    if Watchdog.current is None:
        yield
        return
    with Watchdog.current.meeting(name):
        yield
