"""The gradients of a step, launched as one CUDA graph.

A step of a small network takes longer to launch from Python than to compute. Its forward and backward pass have fixed
shapes and never wait for the device, so they are recorded once for each shape of a batch, and replayed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from retinanet.cuda_graphs import Recorder
from retinanet.types import Batch

WARM_UP = 2
"""Times that a shape runs as it is: in the first what is compiled is compiled, in the second nothing of it is new."""

Compute = Callable[[Batch], Tensor]
Shapes = tuple[torch.Size, ...]


class RecordedGradients:
    """Calls `compute`, which leaves gradients in `parameters`, and later replays what it did.

    What cannot be recorded (a network that waits for the device) runs as it is; so does all where there is no room for
    the graphs' memory: it lies beside that of other work, which cannot use it, and holds what the largest batch needs.
    """

    def __init__(self, compute: Compute, parameters: Sequence[nn.Parameter], recorder: Recorder) -> None:
        self._compute = compute
        self._parameters = parameters
        self._recorder = recorder
        self._seen: Counter[Shapes] = Counter()
        self._replays: dict[Shapes, Compute] = {}
        self._records = True

    def __call__(self, batch: Batch) -> Tensor:
        """What `compute` returns for a batch on the device; it holds until the next call."""
        shapes = tuple(tensor.shape for tensor in batch)
        self._seen[shapes] += 1
        if self._seen[shapes] == WARM_UP + 1 and self._records:
            self._record(shapes, batch)
        try:
            return self._replays.get(shapes, self._compute)(batch)
        except torch.OutOfMemoryError:
            if not self._replays:
                raise
        self._records = False
        self._replays.clear()
        torch.cuda.empty_cache()
        return self._compute(batch)

    def _record(self, shapes: Shapes, batch: Batch) -> None:
        if not self._replays and not self._recorder.has_room():
            return
        inputs = Batch(*(tensor.clone() for tensor in batch))
        try:
            launch, sums = self._recorder(lambda: self._compute(inputs))
        except RuntimeError:
            return
        gradients = [parameter.grad for parameter in self._parameters]

        def replay(batch: Batch) -> Tensor:
            for mine, given in zip(inputs, batch, strict=True):
                mine.copy_(given, non_blocking=True)
            launch()
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            return sums

        self._replays[shapes] = replay
