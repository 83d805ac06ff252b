"""The processes that read images: PyTorch's workers, what becomes of a run that loses one, and their end."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from retinanet.errors import ReaderLost, explain

T = TypeVar("T")

_DEATH = 2.0
"""Seconds that a killed process takes to be seen as dead, at most."""


def made_by_readers(items: Dataset[T], keys: Sequence[object], workers: int, *, pinned: bool = False) -> DataLoader[T]:
    """Yields `items[key]` for each of `keys`, in their order, made by `workers` processes, or here if there are none.

    Go through it inside `reading`.
    """
    return DataLoader(
        items,
        batch_size=None,  # an item is made whole by one worker
        sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pinned,
        worker_init_fn=_ignore_interrupt,
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
        if explain(error) is None and (code := _code_of_dead(readers)):
            raise ReaderLost.because(f"exit code {code}") from error
        raise
    finally:
        atexit.unregister(end)
        if any(process.exitcode for process in readers):
            _end(readers)  # they may wait for a lock that the dead one holds


def _code_of_dead(readers: list[BaseProcess]) -> int:
    """Exit code of a reader that was killed; 0 if none was.

    One that is killed while it hands something over breaks the connection a moment before it is dead.
    """
    ended = wait([process.sentinel for process in readers], timeout=_DEATH) if readers else []
    for process in readers:
        if process.sentinel in ended:
            process.join()  # until the kernel has told us, which interrupts whatever is done then
    return next((process.exitcode for process in readers if process.exitcode), 0)


def _end(readers: list[BaseProcess]) -> None:
    """By force, since they ignore SIGTERM, with which Python would ask them at its own end, and wait for ever."""
    for process in readers:
        with suppress(RuntimeError):  # PyTorch's, that one was killed
            process.kill()
            process.join()


def _as_it_is(item: T) -> T:
    return item


def _ignore_interrupt(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the main process."""
    # Terminals and job schedulers send them to the workers too; the main process saves its work and ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
