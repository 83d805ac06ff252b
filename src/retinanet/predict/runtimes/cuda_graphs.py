"""A function of a batch, launched as one CUDA graph: the processor's part of a run is one call, not hundreds."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from retinanet.types import Detections

LIMIT = 8
"""Shapes that are remembered; of more, the one used longest ago is forgotten."""

Run = Callable[[Tensor, Tensor], Detections]

_recording = threading.Lock()
"""PyTorch records one graph at a time in a process, whatever its devices."""


class CudaGraphs:
    """Runs `run` the first time that a shape comes, which warms it up, and from then on replays its recorded kernels.

    A shape that comes once is thus never recorded. What cannot be recorded (a network that waits for the device) runs
    as it is. Inputs and results are copied, so that a result stays what it is while the next batch runs. All calls must
    come from one stream.
    """

    def __init__(self, run: Run, capture: Callable[[Run, Tensor, Tensor], Run] | None = None) -> None:
        self._run = run
        self._capture = capture or _Recorder()
        self._known: OrderedDict[tuple[int, ...], Run] = OrderedDict()

    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """What `run` gives for images `[N, 3, H, W]` and image_sizes `[N, 2]`."""
        shape = tuple(images.shape)
        run = self._known.get(shape)
        if run is None:
            self._known[shape] = self._first_replay
            if len(self._known) > LIMIT:
                self._known.popitem(last=False)
            return self._run(images, image_sizes)
        self._known.move_to_end(shape)
        return run(images, image_sizes)

    def _first_replay(self, images: Tensor, image_sizes: Tensor) -> Detections:
        try:
            recorded = self._capture(self._run, images, image_sizes)
        except RuntimeError:
            recorded = self._run
        self._known[tuple(images.shape)] = recorded
        return recorded(images, image_sizes)


class _Recorder:
    """Records runs; their intermediate results share one memory, since one runs at a time."""

    def __init__(self) -> None:
        self.pool: Any = None

    def __call__(self, run: Run, images: Tensor, image_sizes: Tensor) -> Run:
        inputs = (images.clone(memory_format=torch.channels_last), image_sizes.clone())
        graph = torch.cuda.CUDAGraph()
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        stream = _recorders_stream(images.device)
        # Other threads may pin memory or copy meanwhile: only this one's calls are recorded, and judged.
        mode = "thread_local"
        with _recording, _as_before_if_failed(self.pool), torch.cuda.graph(graph, self.pool, stream, mode):
            outputs = run(*inputs)

        def replay(images: Tensor, image_sizes: Tensor) -> Detections:
            inputs[0].copy_(images, non_blocking=True)
            inputs[1].copy_(image_sizes, non_blocking=True)
            graph.replay()
            return Detections(*(column.clone() for column in outputs))

        return replay


@functools.cache
def _recorders_stream(device: torch.device) -> torch.cuda.Stream:
    """PyTorch's own would be on the device that the process recorded on first, and nothing of others be recorded."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call, no-any-return]


@contextmanager
def _as_before_if_failed(pool: Any) -> Iterator[None]:
    """Puts right what `torch.cuda.graph` leaves behind where a recording failed and thus cannot be ended either.

    Its own stream stays the current one. And PyTorch 2.11 takes the recording for still under way: until it has ended,
    no memory is given back that a second stream has used (pytorch/pytorch#180395).
    """
    with torch.cuda.stream(torch.cuda.current_stream()):
        try:
            yield
        except RuntimeError:
            with suppress(RuntimeError):  # newer ones know that it has ended
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            raise
