"""One process for each device of this machine, started by PyTorch's elastic launcher, watched, and started again."""

from __future__ import annotations

import logging
import multiprocessing.resource_tracker
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from retinanet.errors import Interrupted, RetinaNetError
from retinanet.train import reports
from retinanet.train.job import TrainingJob
from retinanet.train.rank_process import SIGNALS, run_rank
from retinanet.train.restart import written

_NOTHING_SAVED = "Interrupted; nothing was saved since the last checkpoint."


def launch(train: Callable[[TrainingJob], None], job: TrainingJob, devices: int) -> None:
    """Run `train(job)` as one rank on each of `devices` devices.

    Where a process dies, all of them start again from the job's checkpoint, `--max-restarts` times. What a user can act
    on ends the run at once.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came, here or at the processes.
        RetinaNetError: what a rank raised; or processes died too often.
    """
    config = job.train
    untouched = written(job.path)
    for restarts in range(config.max_restarts + 1):
        # --override replaces what was there when the command was given, not what this run has saved since.
        anew = config.override and written(job.path) == untouched
        with tempfile.TemporaryDirectory(prefix="retinanet-") as folder, _forwarding(Path(folder)) as stops:
            again = replace(job, train=replace(config, override=anew))
            death = _run_once(Path(folder), train, again, devices)
            found = reports.read(Path(folder))
        told = [report for report in found if not report.crashed]
        if told:  # an interruption is what all ranks agreed on; any other sentence is why it failed
            first = min(told, key=lambda report: (report.exit_code == Interrupted.exit_code, report.at))
            raise _as_error(first.sentence, first.exit_code)
        if stops.is_set():
            raise Interrupted(_NOTHING_SAVED)
        if death is None:
            return
        rank, reason = death
        crash = next((report for report in found if report.rank == rank), None)
        if crash:  # an exception; a rank that is killed leaves no report
            print(crash.traceback, end="", file=sys.stderr)
            reason = crash.sentence
        if restarts < config.max_restarts:
            print(
                f"{reason} Starting all {devices} processes again from the last checkpoint "
                f"(restart {restarts + 1} of {config.max_restarts}).",
                file=sys.stderr,
                flush=True,
            )
    raise RetinaNetError(f"{reason} Give the same command to go on from the last checkpoint.")


def _run_once(
    folder: Path, train: Callable[[TrainingJob], None], job: TrainingJob, devices: int
) -> tuple[int, str] | None:
    """Start the processes and wait for them; which one died first, and how, or None if all came to an end."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # reports say it in one sentence
    logging.getLogger("torch.multiprocessing").setLevel(logging.CRITICAL)
    launcher = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # a free port of the system's choice
        local_addr="localhost",
        max_restarts=0,  # `launch` counts them, since some endings are final
        signals_to_handle="SIGUSR2",  # leaves the others to `_forwarding`
    )
    try:
        elastic_launch(launcher, run_rank)(os.getpid(), folder, train, job)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = signal.Signals(-failure.exitcode).name if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        return rank, f"The process of rank {rank} ended ({how})."
    return None


@contextmanager
def _forwarding(folder: Path) -> Iterator[threading.Event]:
    """Inside, the first SIGINT or SIGTERM asks the processes of `folder` to save and stop, the second kills them.

    Gives an event that is set by the first.
    """
    asked, ended = threading.Event(), threading.Event()

    def take(number: int, frame: object) -> None:
        with suppress(OSError):
            (folder / "stop").touch()
        for process in reports.processes(folder):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL if asked.is_set() else signal.SIGTERM)
        asked.set()

    def wait() -> None:
        while not ended.is_set():
            taken = signal.sigtimedwait(SIGNALS, 0.2)
            if taken is not None:
                take(taken.si_signo, None)

    # Processes that start inherit what is blocked, so that no signal hits one before it can tell what that means. Some
    # library's thread may not block them here, hence the handlers too.
    multiprocessing.resource_tracker.ensure_running()  # started later, it would unblock them
    handlers = {number: signal.signal(number, take) for number in SIGNALS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    thread = threading.Thread(target=wait, daemon=True, name="signals")
    thread.start()
    try:
        yield asked
    finally:
        ended.set()
        thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _as_error(sentence: str, exit_code: int) -> RetinaNetError:
    error = Interrupted(sentence) if exit_code == Interrupted.exit_code else RetinaNetError(sentence)
    error.exit_code = exit_code
    return error
