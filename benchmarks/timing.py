"""How long calls take: on a GPU by its own clock, elsewhere by the wall's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from contestants import GPU
from printout import say

Call = Callable[[], object]


class Spread(NamedTuple):
    """Of several measurements."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f}–{self.highest:.2f})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def measure(call: Call, seconds: float = 1.0) -> Spread:
    """In ms, of at least 5 calls after 3 others (which capture graphs)."""
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.monotonic() + (seconds if GPU else 0)
    while len(times) < 5 or (time.monotonic() < end and len(times) < 300):
        if GPU:
            times.append(on_gpu(call))
        else:
            began = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - began))
    return spread(times)


def on_gpu(call: Call) -> float:
    """The ms of one call by the GPU's clock."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def captured(call: Call) -> Call:
    """On a GPU a CUDA graph's replay of `call`: the time of its kernels, not of their launches."""
    if not GPU:
        return call
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()

    def replay(_held: Call = call) -> None:  # whose tensors the graph reads
        graph.replay()

    return replay


def begin_table(title: str, batches: Sequence[int]) -> None:
    """Say what stands above `row`s."""
    names = " | ".join(f"batch {count}" for count in batches)
    for line in ("", f"{title}, ms (lowest–highest)", "", f"| | {names} | best, images/s |"):
        say(line)
    say("|---|" + "---|" * (len(batches) + 1))


def row(
    name: str,
    batches: Sequence[int],
    prepare: Callable[[int], Call | Spread | None],
    floor: Callable[[int], float] | None = None,
) -> str:
    """A line of the table: the ms of what `prepare` gives for each batch, or what it knows; None: nothing to measure.

    `floor` gives the least ms that there could be, whose share is said. A batch that does not fit the memory costs its
    own cell alone.
    """
    cells, rates = [], [0.0]
    for count in batches:
        try:
            prepared = prepare(count)
            found = measure(prepared) if callable(prepared) else prepared
            cells.append(f"{found or ''}{f', {floor(count) / found.median:.0%}' if floor and found else ''}")
        except torch.OutOfMemoryError:
            found = None
            cells.append("out of memory")
        if found:
            rates.append(1e3 * count / found.median)
        prepared = None
        torch.cuda.empty_cache()  # a graph's memory is its own; here, where no exception holds what it was for
    return f"| {name} | {' | '.join(cells)} | {max(rates):.0f} |"
