"""How much of its time a GPU does nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def idle_share(run: Callable[[], object]) -> float:
    """The part, 0…1, of the time from the first kernel to the last of `run` in which no kernel ran; copies don't count.

    The tracing itself slows down what launches kernels one by one.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        run()
        torch.cuda.synchronize()
    return gaps(
        (event.time_range.start, event.time_range.end)
        for event in trace.events()
        if event.device_type == DeviceType.CUDA and not event.name.startswith(("Memcpy", "Memset"))
    )


def gaps(intervals: Iterable[tuple[float, float]]) -> float:
    """The part, 0…1, of the time from the first start to the last end that no interval covers; they may overlap."""
    ordered = sorted(intervals)
    assert ordered, "no kernel ran"
    busy, until = 0.0, ordered[0][0]
    for start, end in ordered:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return 1 - busy / (until - ordered[0][0])
