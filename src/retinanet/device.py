"""Which device a run uses, and in which arithmetic."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from retinanet.config import Precision
from retinanet.errors import UsageError
from retinanet.words import counted

AUTOCAST_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MAX_WORKERS = 16


def choose_device(name: str | None) -> torch.device:
    """The named device, or the first GPU, or the CPU.

    Raises:
        UsageError: the name means nothing, or no such device is here.
    """
    if name is None:
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device takes cpu, cuda or cuda:N, but is {name!r}.") from error
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    if device.type != "cuda" or (device.index or 0) >= count:
        raise UsageError(
            f"--device {name} is not here: this machine has {counted(count, 'CUDA device')}; use cpu or leave it out."
        )
    return torch.device("cuda", device.index or 0)


def device_context(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Inside, `device` is this thread's current one where it is a GPU: there go Triton's kernels and CUDA graphs."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def tune(device: torch.device) -> None:
    """Let fp32 products use tensor cores.

    cuDNN's own search for the fastest convolutions stays off: for depthwise ones it compiles candidates for half a
    minute per canvas, and was not faster in the end.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """Inside, fp32 means it: convolutions on GPUs take TF32 otherwise, whose 10 bits are too few to compare with."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


def choose_workers(workers: int | None, sharing: int = 1) -> int:
    """Processes that read images: as asked, or one for each core that this process may use, at most `MAX_WORKERS`.

    `sharing` processes like this one share the cores.
    """
    if workers is not None:
        return workers
    return min(max(1, len(os.sched_getaffinity(0)) // sharing), MAX_WORKERS)


def choose_precision(precision: Precision | None, device: torch.device, *, on_gpu: Precision) -> Precision:
    """The precision asked for, or `on_gpu` on a GPU and fp32 on a CPU."""
    if precision is not None:
        return precision
    return on_gpu if device.type == "cuda" else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which the network runs in `precision`."""
    return torch.autocast(device.type, AUTOCAST_DTYPE[precision], enabled=precision != "fp32")
