"""Batches whose JPEGs are decoded, resized, flipped and cropped by DALI, on the GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import torch

from retinanet.data import dali_pool
from retinanet.data.dali_pipeline import DEPTH, DaliPipeline, DecodingFailed
from retinanet.data.encoded import EncodedBatch, encode
from retinanet.data.loader import Loader, Made
from retinanet.data.preparation import Preparation
from retinanet.data.torch_loader import BatchMaker

READERS = 4
"""Most threads that read files. They take turns at Python's lock: more of them would only get in each other's way."""


class DaliLoader(Loader):
    """See `Loader`. Shows what `TorchLoader` shows: what is seen of an image is decided by the same functions.

    Files are read by threads, ahead of DALI, which draws them with `workers` threads of its own. What DALI can't decode
    as we do (all but ordinary JPEGs) is drawn by those who read; a batch that it fails on is made again without it.
    """

    def __init__(
        self, preparation: Preparation, steps: range, workers: int, device: torch.device, shared: bool = False
    ) -> None:
        super().__init__(preparation, steps, shared)
        self._maker = BatchMaker(preparation)
        self._threads = max(1, workers)
        self._device = device
        self._refused: set[int] = set()
        """Indices of the images that DALI failed on."""

    def _make(self) -> Iterator[Made]:
        with _reading(min(READERS, self._threads)) as pool:
            plans = map(self.preparation.batch, self.steps)
            coming = (pool.submit(encode, self._maker, plan, self._refused) for plan in plans)
            reading = deque(islice(coming, DEPTH + self._threads))
            if not reading:
                return
            pipeline = self._start(reading[0].result())
            drawing: deque[EncodedBatch] = deque()
            while reading or drawing:
                while reading and len(drawing) < DEPTH:
                    drawing.append(reading.popleft().result())
                    reading.extend(islice(coming, 1))
                    pipeline.feed(drawing[-1])
                encoded = drawing.popleft()
                try:
                    images = pipeline.fetch()
                except DecodingFailed as failed:
                    yield self._make_again(encoded, failed)
                    pipeline = self._start(encoded)
                    for waiting in drawing:
                        pipeline.feed(waiting)
                    continue
                for slot, picture in encoded.drawn.items():
                    images[slot].copy_(picture)
                yield Made(encoded.batch._replace(images=images), encoded.broken, encoded.colours).on(self._device)
            dali_pool.keep(pipeline)

    def _start(self, encoded: EncodedBatch) -> DaliPipeline:
        return dali_pool.take(len(encoded.files), self._threads, self._device)

    def _make_again(self, encoded: EncodedBatch, failed: DecodingFailed) -> Made:
        """As the torch loader does, and so that DALI does not meet the file again."""
        slots = failed.slots or range(len(encoded.files))
        self._refused |= {int(encoded.plan.indices[slot]) for slot in slots}
        return self._maker.make(encoded.plan).on(self._device)


@contextmanager
def _reading(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
