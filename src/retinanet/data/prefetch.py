"""Batches on their way to the device while it works on the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from retinanet.data.loader import Made


def prefetch(batches: Iterable[Made], device: torch.device) -> Iterator[Made]:
    """`batches`, which lie in pinned memory, on `device`, a GPU.

    The next one is copied and recoloured on a stream of its own, while the current stream is busy with the one yielded.
    """
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[Made, torch.cuda.Event] | None = None
    for made in batches:
        with torch.cuda.stream(copies):
            coming = made.on(device), copies.record_event()
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = coming
    if waiting is not None:
        yield _arrived(*waiting)


def _arrived(made: Made, copied: torch.cuda.Event) -> Made:
    """`made`, for use on the current stream."""
    stream = torch.cuda.current_stream(made.batch.images.device)
    stream.wait_event(copied)
    for tensor in made.batch:
        if tensor.is_cuda:  # its memory was taken on the stream of copies, and must not be given away there too early
            tensor.record_stream(stream)
    return made
