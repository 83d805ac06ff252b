"""A function of a batch, launched as one CUDA graph: the processor's part of a run is one call, not hundreds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from retinanet.cuda_graphs import Recorder
from retinanet.types import Detections

LIMIT = 8
"""Shapes that are remembered; of more, the one used longest ago is forgotten."""

Run = Callable[[Tensor, Tensor], Detections]


class CudaGraphs:
    """Runs `run` the first time that a shape comes, which warms it up, and from then on replays its recorded kernels.

    A shape that comes once is thus never recorded. What cannot be recorded (a network that waits for the device) runs
    as it is. Inputs and results are copied, so that a result stays what it is while the next batch runs. All calls must
    come from one stream.
    """

    def __init__(self, run: Run, capture: Callable[[Run, Tensor, Tensor], Run] | None = None) -> None:
        self._run = run
        self._capture = capture or _Capture()
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


class _Capture:
    """Records runs of a shape."""

    def __init__(self) -> None:
        self.recorder: Recorder | None = None

    def __call__(self, run: Run, images: Tensor, image_sizes: Tensor) -> Run:
        inputs = (images.clone(memory_format=torch.channels_last), image_sizes.clone())
        self.recorder = self.recorder or Recorder(images.device)
        launch, outputs = self.recorder(lambda: run(*inputs))

        def replay(images: Tensor, image_sizes: Tensor) -> Detections:
            inputs[0].copy_(images, non_blocking=True)
            inputs[1].copy_(image_sizes, non_blocking=True)
            launch()
            return Detections(*(column.clone() for column in outputs))

        return replay
