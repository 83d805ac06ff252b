"""The heads' levels side by side: the coarse ones are too small to fill a GPU."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from retinanet.model.heads import Head

BRANCHES = 10
"""Streams of a device: one for each head and level of one backbone. PyTorch has 32 and then gives them out again, when
what other threads do on theirs would be recorded too; so all networks share these."""


class SideBySide:
    """`RetinaNet.run_heads` as branches of a CUDA graph, one for each head and level; elsewhere one after the other.

    Without a graph, launching would take longer than what is gained.
    """

    def __init__(self, class_head: Head, box_head: Head) -> None:
        self.class_head, self.box_head = class_head, box_head

    def __call__(self, pyramid: list[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What the class head and what the box head says of each level."""
        if not (pyramid[0].is_cuda and torch.cuda.is_current_stream_capturing()):
            return self.class_head(pyramid), self.box_head(pyramid)
        main, branches = torch.cuda.current_stream(), _branches(torch.cuda.current_device())
        for stream in branches:
            stream.wait_stream(main)
        logits: list[Tensor] = []
        deltas: list[Tensor] = []
        # The finest first: they take longest. `pyramid` outlives all branches, so that its memory is not used anew.
        calls = [
            (feature, *side) for feature in pyramid for side in ((self.class_head, logits), (self.box_head, deltas))
        ]
        for number, (feature, head, outputs) in enumerate(calls):
            with torch.cuda.stream(branches[number % BRANCHES]):
                outputs += head([feature])
        for stream in branches:
            main.wait_stream(stream)
        return tuple(logits), tuple(deltas)


@functools.cache
def _branches(device: int) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(BRANCHES)]  # type: ignore[no-untyped-call]
