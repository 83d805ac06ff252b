"""Batches through a model without a stall: while one is computed, the last ones come back and are dealt with.

Reading, decoding and the way to the device are ahead, in the loader; what becomes of the detections is left to a thread
behind. The loop only hands work over. It never waits for the GPU, but for the thread when that falls behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from retinanet.predict.predictor import Predictor
from retinanet.types import Batch, Detections

IN_FLIGHT = 4
"""Batches that are launched, but not dealt with."""

Finish = Callable[[Tensor, Detections], None]
"""Takes the image ids `[N]` (-1: blank slot) and the detections of a batch, in original pixels, on the CPU."""


def run_batches(predictor: Predictor, batches: Iterable[Batch], finish: Finish) -> None:
    """Detect in each batch; `finish` is called for each in turn, by one other thread.

    What `finish` raises is raised here, some batches later. When anything is raised here, what is in flight is finished
    first.
    """
    with ThreadPoolExecutor(1, "finish") as thread:
        pending: deque[Future[None]] = deque()
        for batch in map(predictor.trim, batches):
            found, arrived = _on_its_way_back(predictor.run(batch))
            pending.append(thread.submit(_finish, finish, batch.image_ids, found, arrived))
            if len(pending) == IN_FLIGHT:
                pending.popleft().result()
        for last in pending:
            last.result()


def _on_its_way_back(detections: Detections) -> tuple[Detections, torch.cuda.Event | None]:
    """The detections in (pinned) memory of the CPU, to be read once the event has come."""
    device = detections.scores.device
    found = Detections(*(column.to("cpu", non_blocking=True) for column in detections))
    if device.type != "cuda":
        return found, None
    arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(device))
    return found, arrived


def _finish(finish: Finish, image_ids: Tensor, found: Detections, arrived: torch.cuda.Event | None) -> None:
    if arrived is not None:
        arrived.synchronize()
    finish(image_ids, found)
