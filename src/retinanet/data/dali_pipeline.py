"""DALI's part of loading: JPEGs to pictures on their canvases. The only file that imports DALI."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from retinanet.data.encoded import EncodedBatch
from retinanet.extras import require

DEPTH = 3
"""Batches that DALI works on at once."""


class DecodingFailed(Exception):
    """A file of the batch can't be decoded; the pipeline is lost with it."""

    def __init__(self, slots: list[int]) -> None:
        super().__init__(slots)
        self.slots = slots
        """Where the files stand in their batch; empty if DALI does not say."""


def require_dali() -> Any:
    """The package. Raises `UsageError` where it is missing."""
    return require("nvidia.dali", "dali", "--loader dali")


class DaliPipeline:
    """Batches of `batch` slots are drawn on `device` in the order they are fed; at most `DEPTH` are on their way.

    On a CPU the same operators run, for tests and for comparison.
    """

    def __init__(self, batch: int, threads: int, device: torch.device) -> None:
        self.key = (batch, threads, device)
        self._device, self._waiting, self._filled = device, 0, False
        fed: deque[EncodedBatch] = deque()
        self._fed, self._running = fed, False

        # No method of this object: the pipeline must go when its last user does, not when garbage is collected, which
        # might be in a forked process, where its threads are missing.
        def next_fed() -> tuple[list[np.ndarray], np.ndarray]:
            if not fed:
                raise StopIteration
            encoded = fed.popleft()
            return encoded.files, encoded.placement

        dali = require_dali()
        fn, types = require("nvidia.dali.fn", "dali", "--loader dali"), dali.types
        on_gpu = device.type == "cuda"
        options = {"jpeg_fancy_upsampling": True, "hw_decoder_load": decoder_load(device), "affine": False}
        self._pipeline = dali.Pipeline(
            batch_size=batch,
            num_threads=threads,
            device_id=device.index if on_gpu else None,
            prefetch_queue_depth=DEPTH,
            exec_dynamic=True,  # outputs outlive the next batch, so that PyTorch uses them without a copy
        )
        with self._pipeline:
            files, placement = fn.external_source(
                next_fed, num_outputs=2, dtype=[types.UINT8, types.FLOAT], ndim=[1, 2], no_copy=True
            )
            pictures = fn.decoders.image(files, device="mixed" if on_gpu else "cpu", **(options if on_gpu else {}))
            # Pixels beyond the region are still seen by the filter, so this equals cropping the resized picture.
            shown = fn.resize(
                pictures,
                roi_start=placement[0],
                roi_end=placement[1],
                size=placement[2],
                interp_type=types.INTERP_LINEAR,
                antialias=True,
            )
            canvas = fn.cast(placement[3], dtype=types.INT32)
            self._pipeline.set_outputs(
                fn.slice(shown, start=(0, 0), shape=canvas, axes=(0, 1), out_of_bounds_policy="pad", fill_values=0)
            )
        self._pipeline.build()

    def feed(self, encoded: EncodedBatch) -> None:
        """Begin to draw a batch, which must be kept until its images are fetched.

        Before the first one is fetched, feed `DEPTH`, or all that there are.
        """
        self._fed.append(encoded)
        self._waiting += 1
        if self._running:
            self._pipeline.schedule_run()

    @property
    def reusable(self) -> bool:
        """Whether more can be fed: it is empty, and never had to ask for more than there was."""
        return self._filled and not self._waiting

    def fetch(self) -> Tensor:
        """Images uint8 `[N, 3, H, W]`, channels-last in memory, of the batch fed first; for use on the current stream.

        Raises `DecodingFailed`, after which nothing more can be fetched.
        """
        if not self._running:  # DALI takes as many as it can hold
            self._running, self._filled = True, len(self._fed) >= DEPTH
            self._pipeline.schedule_run()
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        try:
            (drawn,) = self._pipeline.share_outputs(cuda_stream=stream)
        except RuntimeError as error:
            if "decode" not in str(error):
                raise
            raise DecodingFailed([int(slot) for slot in re.findall(r"sample #(\d+)", str(error))]) from error
        images = from_dlpack(drawn.as_tensor())
        self._pipeline.release_outputs()
        self._waiting -= 1
        return images.permute(0, 3, 1, 2)


def decoder_load(device: torch.device) -> float:
    """The share of the JPEGs that is given to a GPU's hardware decoder; the rest is decoded by its multiprocessors."""
    if device.type != "cuda":
        return 0.0
    capability = torch.cuda.get_device_capability(device)
    if capability >= (9, 0):
        return 0.9  # measured on an H100: with 0.65 it was less than half as fast
    # An A100's is slower: NVIDIA's measurements have their best at three quarters. For others it is DALI's own choice.
    return 0.75 if capability == (8, 0) else 0.65
