"""The heads' levels side by side: the coarse ones are too small to fill a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from retinanet.model.heads import Head


class SideBySide:
    """`RetinaNet.run_heads` as branches of a CUDA graph, one for each head and level; elsewhere one after the other.

    Without a graph, launching would take longer than what is gained.
    """

    def __init__(self, class_head: Head, box_head: Head) -> None:
        self.class_head, self.box_head = class_head, box_head
        self.streams: list[torch.cuda.Stream] = []

    def __call__(self, pyramid: list[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What the class head and what the box head says of each level."""
        if not (pyramid[0].is_cuda and torch.cuda.is_current_stream_capturing()):
            return self.class_head(pyramid), self.box_head(pyramid)
        main = torch.cuda.current_stream()
        while len(self.streams) < 2 * len(pyramid):  # few exist, so they are kept
            self.streams.append(torch.cuda.Stream())  # type: ignore[no-untyped-call]
        logits: list[Tensor] = []
        deltas: list[Tensor] = []
        # The finest first: they take longest. `pyramid` outlives all branches, so that its memory is not used anew.
        calls = [
            (feature, *side) for feature in pyramid for side in ((self.class_head, logits), (self.box_head, deltas))
        ]
        branches = self.streams[: len(calls)]
        for stream, (feature, head, outputs) in zip(branches, calls, strict=True):
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                outputs += head([feature])
        for stream in branches:
            main.wait_stream(stream)
        return tuple(logits), tuple(deltas)
