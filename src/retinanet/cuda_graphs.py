"""Work on a GPU recorded once and launched as one: a CUDA graph, put right where it cannot be recorded."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_recording = threading.Lock()
"""PyTorch records one graph at a time in a process, whatever its devices."""


class Recorder:
    """Records work of one device. What its graphs compute on the way shares one memory: one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: Any = None

    def __call__(self, work: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Call `work` without running its kernels. What the allocator keeps unused is given back before.

        Returns what runs them, as often as it is called, and the tensors that then hold the results.

        Raises:
            RuntimeError: it waits for the device, or the memory is too small; nothing of the attempt is left.
        """
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        stream = _recorders_stream(self.device)
        # Other threads may pin memory or copy meanwhile: only this one's calls are recorded, and judged.
        mode = "thread_local"
        with _recording, _as_before_if_failed(self._pool, stream), torch.cuda.graph(graph, self._pool, stream, mode):
            results = work()
        return graph.replay, results

    def has_room(self) -> bool:
        """Whether as much memory is free as this process has taken: what it ran fits once more, recorded."""
        return torch.cuda.mem_get_info(self.device)[0] > torch.cuda.memory_reserved(self.device)


@functools.cache
def _recorders_stream(device: torch.device) -> torch.cuda.Stream:
    """PyTorch's own would be on the device that the process recorded on first, and nothing of others be recorded."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call, no-any-return]


@contextmanager
def _as_before_if_failed(pool: Any, stream: torch.cuda.Stream) -> Iterator[None]:
    """Puts right what `torch.cuda.graph` leaves behind where a recording failed and thus cannot be ended either.

    Its own stream stays the current one. PyTorch 2.11 takes the recording for still under way: until it has ended, no
    memory is given back that a second stream has used (pytorch/pytorch#180395). And its random numbers refuse to be
    drawn until another recording has succeeded.
    """
    with torch.cuda.stream(torch.cuda.current_stream()):
        try:
            yield
        except RuntimeError:
            with suppress(RuntimeError):  # newer ones know that it has ended
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            with torch.cuda.graph(torch.cuda.CUDAGraph(), None, stream, "thread_local"):
                torch.zeros(1, device=stream.device)  # an empty one would be warned of
            raise
