"""DALI's pipelines before and between their uses: on a GPU one takes two seconds to start, on an H100 1.8."""

from __future__ import annotations

import atexit
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import torch

from retinanet.data.dali_pipeline import DaliPipeline

MOST = 2
"""Pipelines that are kept: a training's, and that of its validations."""

_Key = tuple[int, int, torch.device]
_ready: dict[_Key, Future[DaliPipeline]] = {}
_lock = Lock()
atexit.register(_ready.clear)  # while there is still a driver to free their memory


def prepare(batch: int, threads: int, device: torch.device) -> None:
    """Begin to start a pipeline, in a thread, which will be there to be taken."""
    key = (batch, threads, device)
    with _lock:
        if key not in _ready:
            thread = ThreadPoolExecutor(1, "start")
            _add(key, thread.submit(DaliPipeline, *key))
            thread.shutdown(wait=False)


def take(batch: int, threads: int, device: torch.device) -> DaliPipeline:
    """One that is ready, or a new one: the caller's alone."""
    key = (batch, threads, device)
    with _lock:
        started = _ready.pop(key, None)
    return started.result() if started else DaliPipeline(*key)


def keep(pipeline: DaliPipeline) -> None:
    """Have it ready for whoever comes next, if it can be fed again."""
    if pipeline.reusable:
        started: Future[DaliPipeline] = Future()
        started.set_result(pipeline)
        with _lock:
            _add(pipeline.key, started)


def _add(key: _Key, started: Future[DaliPipeline]) -> None:
    _ready[key] = started
    if len(_ready) > MOST:
        _ready.pop(next(iter(_ready)))
