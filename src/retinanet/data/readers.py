"""The processes that read images: PyTorch's workers, what becomes of a run that loses one, and their end."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from retinanet.errors import ReaderLost, explain

T = TypeVar("T")

_DEATH = 2.0
"""Seconds that a killed process takes to be seen as dead, at most."""
_POLL = 5.0
"""Seconds between a reader's looks at whether its parent lives."""


def made_by_readers(items: Dataset[T], keys: Sequence[object], workers: int, *, pinned: bool = False) -> DataLoader[T]:
    """Yields `items[key]` for each of `keys`, in their order, made by `workers` processes, or here if there are none.

    Go through it inside `reading`.
    """
    if workers:
        resource_tracker.ensure_running()  # started by a reader, it would unblock SIGTERM there
    return DataLoader(
        items,
        batch_size=None,  # an item is made whole by one worker
        sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pinned,
        worker_init_fn=_obey_parent_alone,
        generator=torch.Generator(),  # its own, so that iterating leaves the run's random state alone
    )


@contextmanager
def reading(start: Callable[[], Iterable[T]]) -> Iterator[Iterator[T]]:
    """Inside, what `start()` yields; the processes that it starts end with this one.

    Raises:
        ReaderLost: one of them was killed. PyTorch says so too, by a RuntimeError that `errors.explain` knows, wherever
            the main thread then happens to be.
    """
    others = set(active_children())
    made = iter(start())
    readers = [process for process in active_children() if process not in others]
    end = partial(_end, readers)
    atexit.register(end)
    try:
        yield made
    except Exception as error:
        # A process that is killed while it hands something over breaks the connection a moment before it is dead.
        if readers and explain(error) is None:
            ended = wait([process.sentinel for process in readers], timeout=_DEATH)
            for process in readers:
                if process.sentinel in ended:
                    process.join()  # until the kernel has told us, which interrupts whatever is done then
                    raise ReaderLost.because(f"exit code {process.exitcode}") from error
        raise
    finally:
        atexit.unregister(end)
        if any(process.exitcode for process in readers):
            _end(readers)  # they may wait for a lock that the dead one holds


def _end(readers: list[BaseProcess]) -> None:
    for process in readers:
        process.terminate()


def _as_it_is(item: T) -> T:
    return item


def _obey_parent_alone(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the main process, which saves its work; end when it says so, or when it has died."""
    # Terminals and job schedulers send them to the workers too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # `_end_with` takes it, and sees who sent it
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        sent = signal.sigtimedwait({signal.SIGTERM}, _POLL)
        if sent is not None and sent.si_pid == parent:
            break
    os._exit(0)
