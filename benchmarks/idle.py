"""What a GPU does in a run, and for how much of the time it does nothing."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


class Trace(NamedTuple):
    """Of a run. Tracing slows down what launches kernels one by one."""

    seconds: float
    """The run's, by the clock."""
    kernels: float
    """Seconds from the first kernel to the last."""
    idle: float
    """The part of these, 0…1, in which no kernel ran; copies don't count."""
    work: dict[str, tuple[int, float]]
    """Name → launches and seconds of a kernel, a copy or a filling, longest first. What runs side by side adds up."""


def trace(run: Callable[[], object]) -> Trace:
    """Trace the GPU's part of `run`."""
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as traced:
        run()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    work: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    intervals = []
    for event in traced.events():
        if event.device_type != DeviceType.CUDA:
            continue
        start, end = event.time_range.start, event.time_range.end
        name = event.name.removeprefix("void ").replace("(anonymous namespace)::", "")
        name = name.split("<")[0].split("(")[0].strip()  # without what templates and arguments say
        launches, total = work[name]
        work[name] = (launches + 1, total + (end - start) / 1e6)
        if not event.name.startswith(("Memcpy", "Memset")):
            intervals.append((start, end))
    kernels = (max(end for _, end in intervals) - min(start for start, _ in intervals)) / 1e6
    return Trace(seconds, kernels, gaps(intervals), dict(sorted(work.items(), key=lambda item: -item[1][1])))


def gaps(intervals: Iterable[tuple[float, float]]) -> float:
    """The part, 0…1, of the time from the first start to the last end that no interval covers; they may overlap."""
    ordered = sorted(intervals)
    assert ordered, "no kernel ran"
    busy, until = 0.0, ordered[0][0]
    for start, end in ordered:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return 1 - busy / (until - ordered[0][0])
