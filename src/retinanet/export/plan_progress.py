"""TensorRT's build as a progress bar that Ctrl-C ends cleanly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class BuildProgress:
    """Shows the phases of a build, one line each, on a terminal; and can end it."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._cancelled = threading.Event()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def run(self, build: Callable[[], Any]) -> Any:
        """What `build` returns; Ctrl-C cancels it, and is raised once it has ended.

        The build has a thread of its own: an exception in the middle of TensorRT's code would end the process.
        """
        with self._bars, ThreadPoolExecutor(1) as thread:
            outcome = thread.submit(build)
            try:
                return outcome.result()
            except KeyboardInterrupt:
                self._cancelled.set()
                raise  # when the thread has ended

    def monitor(self, module: Any) -> Any:
        """What TensorRT reports to. It must live as long as the build."""
        progress = self

        class Monitor(module.IProgressMonitor):  # type: ignore[misc]
            def __init__(self) -> None:
                module.IProgressMonitor.__init__(self)

            def phase_start(self, name: str, parent: str | None, steps: int) -> None:
                progress.start(name, steps)

            def step_complete(self, name: str, step: int) -> bool:
                return progress.step(name, step)

            def phase_finish(self, name: str) -> None:
                progress.finish(name)

        return Monitor()

    def start(self, phase: str, steps: int) -> None:
        """A phase begins; an earlier one of its name has ended."""
        self.finish(phase)
        self._tasks[phase] = self._bars.add_task(phase, total=steps)

    def step(self, phase: str, step: int) -> bool:
        """A step of it, counted from 0, is done; False ends the build."""
        if phase in self._tasks:
            self._bars.update(self._tasks[phase], completed=step + 1)
        return not self._cancelled.is_set()

    def finish(self, phase: str) -> None:
        """It has ended."""
        if phase in self._tasks:
            self._bars.remove_task(self._tasks.pop(phase))
