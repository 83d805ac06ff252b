"""DALI's pipelines before and between their uses: on a GPU one takes nearly two seconds to start."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import torch

from retinanet.data.dali_pipeline import DaliPipeline

MOST = 2
"""Pipelines that are kept: a training's, and that of its validations."""

_Key = tuple[int, int, torch.device]
_ready: dict[_Key, Callable[[], DaliPipeline]] = {}
"""What gives the pipeline, once: some are still being started."""
_lock = Lock()
atexit.register(_ready.clear)  # while there is still a driver to free their memory


def prepare(batch: int, threads: int, device: torch.device) -> None:
    """Begin to start a pipeline, in a thread, which will be there to be taken."""
    key = (batch, threads, device)
    with _lock:
        if key not in _ready:
            thread = ThreadPoolExecutor(1, "start")
            _add(key, thread.submit(DaliPipeline, *key).result)
            thread.shutdown(wait=False)


def take(batch: int, threads: int, device: torch.device) -> DaliPipeline:
    """One that is ready, or a new one: the caller's alone."""
    key = (batch, threads, device)
    with _lock:
        ready = _ready.pop(key, None)
    return ready() if ready else DaliPipeline(*key)


def keep(pipeline: DaliPipeline) -> None:
    """Have it ready for whoever comes next, if it can be fed again."""
    if pipeline.reusable:
        with _lock:
            _add(pipeline.key, lambda: pipeline)


def _add(key: _Key, ready: Callable[[], DaliPipeline]) -> None:
    _ready[key] = ready
    if len(_ready) > MOST:
        _ready.pop(next(iter(_ready)))
