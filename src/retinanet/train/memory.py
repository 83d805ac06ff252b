"""A GPU that is too small for a batch: which one would fit, found by trying."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from retinanet.errors import RetinaNetError
from retinanet.model.compiling import synchronises
from retinanet.train.distributed import world_size
from retinanet.train.step import StepLosses, TrainStep
from retinanet.types import Batch
from retinanet.words import counted

_SENTENCE = re.compile(r"\.\s+(?=[A-Z])")
_FILLED = 0.95
"""Part of the memory that a batch may fill: allocators lose some, and other canvases need a little more."""


def take_step(step: TrainStep, batch: Batch, learning_rate: float) -> StepLosses:
    """`step(batch, learning_rate)`.

    Raises:
        RetinaNetError: the memory is too small; the sentence names a batch that would fit, where that can be measured.
    """
    try:
        return step(batch, learning_rate)
    except torch.OutOfMemoryError as error:
        reason = ". ".join(_SENTENCE.split(str(error))[:3])  # what was wanted, and how much there is
    # From here on nothing holds what the failed step had computed.
    images, (height, width) = len(batch.images), batch.images.shape[2:]
    fits = _measure(step, batch)
    if fits is None:
        remedy = "lower --batch or --resize, or learn a batch in parts with --accumulate"
    elif fits:
        remedy = f"measured on it, --batch {fits * world_size()} would fit; --accumulate learns a larger one in parts"
    else:
        remedy = "not even one image fits: lower --resize, or take a smaller backbone"
    wanted = f"{counted(images, 'image')} of {height}×{width} pixels"
    raise RetinaNetError(f"The memory of {step.device} is too small for {wanted} ({reason}): {remedy}.")


def _measure(step: TrainStep, batch: Batch) -> int | None:
    """How many images of `batch` would fit, by computing the gradients of some; None where it cannot be tried."""
    device = step.device
    if device.type != "cuda" or synchronises(step.network):
        return None  # a synchronised norm would wait for ranks that are elsewhere

    def begin() -> int:
        step.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(device)

    def trial(images: int) -> int:
        before = begin()
        torch.cuda.reset_peak_memory_stats(device)
        step.own_gradients(Batch(*(tensor[:images] for tensor in batch)).to(device))
        return torch.cuda.max_memory_allocated(device) - before

    begin()
    room = torch.cuda.mem_get_info(device)[0]
    if not step.optimizer.state:  # AdamW makes its two numbers a weight in its first step
        room -= 2 * sum(parameter.numel() * parameter.element_size() for parameter in step.parameters)
    return images_that_fit(trial, len(batch.images), room)


def images_that_fit(trial: Callable[[int], int], images: int, room: int) -> int:
    """How many images fit into `room` bytes, fewer than `images`, which did not; 0 if not even one does.

    `trial` takes some images and returns the bytes that they needed at most, or raises OutOfMemoryError. What a step
    needs in any case is counted to the images, so the answer is rather too small than too large.
    """
    tried = images // 2
    while tried:
        try:
            used = trial(tried)
        except torch.OutOfMemoryError:
            tried //= 2
        else:
            return min(max(int(room * _FILLED * tried / max(used, 1)), tried), images - 1)
    return 0
