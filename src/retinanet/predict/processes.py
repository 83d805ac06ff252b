"""Several devices, one process each: they share nothing but a list of images, so one may die and the others go on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import torch

from retinanet.config import InferConfig
from retinanet.data.annotations import CocoData
from retinanet.data.video import Video
from retinanet.device import choose_device
from retinanet.errors import RetinaNetError, UsageError, explain
from retinanet.predict.journal import Finished, PartReader
from retinanet.predict.runtimes.kinds import runs_on_gpus
from retinanet.predict.work import Work, do_work, open_predictor
from retinanet.stop import StopRequest
from retinanet.words import counted

WORTH_A_PROCESS = 1000
"""Images: a GPU does about as many in the seconds that a process takes to start."""
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_POLL = 0.2  # seconds between looks at what has been finished


class _Process(NamedTuple):
    name: str
    process: multiprocessing.process.BaseProcess
    failure: Connection
    """From which an error's sentence comes."""
    part: PartReader


def choose_processes(config: InferConfig, model: Path, data: CocoData) -> list[str]:
    """The devices, by name, of the processes that share the images; a video is one process's.

    Raises:
        UsageError: there are not so many devices, or `--device` names one of them.
        ModelError: the model cannot be read.
    """
    images, most = len(data), 1 if isinstance(data, Video) else config.devices
    batches = -(-images // config.batch)
    if choose_device(config.device).type == "cpu" or (most is None and not runs_on_gpus(model)):
        return ["cpu"] * max(1, min(most or 1, batches))
    if torch.device(config.device or "cuda").index is not None:
        if (most or 1) > 1:
            raise UsageError(f"--device {config.device} is one GPU, but --devices is {most}; leave one of them out.")
        return [str(config.device)]
    here = torch.cuda.device_count()
    if (most or 1) > here:
        raise UsageError(
            f"--devices {most} are not here: this machine has {counted(here, 'CUDA device')}; give at most that."
        )
    count = most or min(here, max(1, images // WORTH_A_PROCESS))
    return [f"cuda:{index}" for index in range(max(1, min(count, batches)))]


def run_processes(
    works: Sequence[Work], devices: Sequence[str], stop: StopRequest, deliver: Callable[[Finished], None]
) -> dict[str, str]:
    """Have each of `works` done by a process on its device; what they finish is delivered here as it comes.

    Returns the files that could not be read, path → sentence. When `stop` is requested, the processes are asked to stop
    too, and this returns when they have.

    Raises:
        RetinaNetError: some processes failed or died, all others are done; it names them.
    """
    running = [_start(work, device) for work, device in zip(works, devices, strict=True)]
    told = False
    try:
        while any(each.process.is_alive() for each in running):
            wait([each.process.sentinel for each in running if each.process.is_alive()], _POLL)
            if stop.requested and not told:
                told = True
                for each in running:
                    each.process.terminate()
            _deliver_new(running, deliver)
        _deliver_new(running, deliver)
    finally:
        for each in running:
            each.process.kill()
            each.process.join()
    if not stop.requested:
        _raise_failures(running)
    return {path: sentence for each in running for path, sentence in each.part.broken.items()}


def _start(work: Work, device: str) -> _Process:
    context = multiprocessing.get_context("spawn")
    failure, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, device, sender))
    with only_visible(device):
        process.start()
    sender.close()
    name = f"Process {work.rank + 1} of {work.world} ({device})"
    return _Process(name, process, failure, PartReader(work.journal, work.part))


@contextlib.contextmanager
def only_visible(device: str) -> Iterator[None]:
    """A process that starts inside sees this GPU alone, and takes it as a single process would."""
    given = os.environ.get(_VISIBLE)
    if device != "cpu":
        index = torch.device(device).index
        os.environ[_VISIBLE] = given.split(",")[index] if given else str(index)
    try:
        yield
    finally:
        os.environ.pop(_VISIBLE, None)
        if given is not None:
            os.environ[_VISIBLE] = given


def _deliver_new(running: Sequence[_Process], deliver: Callable[[Finished], None]) -> None:
    for each in running:
        for finished in each.part.read_new():
            deliver(finished)


def _raise_failures(running: Sequence[_Process]) -> None:
    failed = [each for each in running if each.process.exitcode]
    if failed:
        error = RetinaNetError(" ".join(f"{each.name} failed: {_reason(each)}" for each in failed))
        error.exit_code = max(failed[0].process.exitcode or 0, 1)
        raise error


def _reason(each: _Process) -> str:
    code = each.process.exitcode or 0
    if code < 0:
        return f"it was ended by signal {-code} ({signal.Signals(-code).name})."
    try:
        return str(each.failure.recv())
    except EOFError:
        return f"exit code {code}."


def _run(work: Work, device: str, failure: Connection) -> None:
    """The whole life of a process."""
    os.setsid()  # so that Ctrl-C reaches the parent alone, which asks this process to stop
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if device == "cpu":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // work.world))
    try:
        with StopRequest(repeated=True) as stop:
            predictor = open_predictor(work.model, work.config, work.postprocess, work.data, work.world)
            do_work(predictor, work, stop, None)
    except BaseException as error:
        known = explain(error)
        failure.send(str(known or f"{type(error).__name__}: {error}"))
        if known is None:
            raise
        raise SystemExit(known.exit_code) from None


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)  # its own readers notice
