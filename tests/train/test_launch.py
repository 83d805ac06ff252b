"""What the launcher makes of the ways in which its processes end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from rank_processes import free_port, rank_environment
from torch._dynamo.exc import TorchDynamoException

from retinanet.config import DataConfig, ModelConfig, TrainConfig
from retinanet.errors import Interrupted, RetinaNetError
from retinanet.train import ranks, run
from retinanet.train.alone import train_alone
from retinanet.train.job import TrainingJob
from retinanet.train.launch import launch

CPU = torch.device("cpu")


def job_in(folder: Path, **train: object) -> TrainingJob:
    here = folder / "model.pth"
    return TrainingJob(here, folder, here, None, None, ModelConfig(), DataConfig(), TrainConfig(**train))


def begin_as_the_last_rank(job: TrainingJob) -> None:
    """The one that fails: the other waits, and may be ended before it comes this far."""
    if os.environ.get("RANK") == "0":
        time.sleep(600)
    (job.images / f"begun-{os.getpid()}").touch()


def lack_memory(job: TrainingJob) -> None:
    begin_as_the_last_rank(job)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore")


def fail_to_compile(job: TrainingJob) -> None:
    begin_as_the_last_rank(job)
    raise TorchDynamoException("no such instruction")


def lose_a_reader(job: TrainingJob) -> None:
    begin_as_the_last_rank(job)
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "starts", "words"),
    [
        (lack_memory, 1, ["9 GiB", "--batch"]),
        (fail_to_compile, 1, ["no such instruction", "--no-compile"]),
        (lose_a_reader, 2, ["--workers", "same command"]),
    ],
)
def test_only_what_may_go_better_is_tried_again_and_each_ending_names_its_remedy(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], train, starts: int, words: list[str]
) -> None:
    with pytest.raises(RetinaNetError) as failed:
        launch(train, job_in(tmp_path, max_restarts=1), 2)
    assert failed.value.exit_code == 1
    assert all(word in str(failed.value) for word in words)
    assert len(list(tmp_path.glob("begun-*"))) == starts
    assert "Traceback" not in capfd.readouterr().err


SIGNALLED = """
import os, pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # of all threads that are to come
from retinanet.train.rank_process import run_rank
os.kill(os.getpid(), signal.SIGTERM)
run_rank(os.getppid(), pathlib.Path(sys.argv[1]), print, None)
"""


def test_a_signal_that_came_before_a_rank_could_take_it_ends_it_without_a_word(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (6, "", "")


@pytest.mark.parametrize(
    ("ending", "destroyed"), [(None, 1), (Interrupted("all agreed"), 1), (RetinaNetError("one rank's own"), 0)]
)
def test_a_rank_that_fails_alone_waits_for_no_other(
    monkeypatch: pytest.MonkeyPatch, ending: Exception | None, destroyed: int
) -> None:
    """Taking the group apart is a meeting of all ranks."""
    for name, value in rank_environment(0, free_port(), world=1).items():
        monkeypatch.setenv(name, value)
    calls = []
    destroy = dist.destroy_process_group
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append(destroy()))
    expected = pytest.raises(type(ending)) if ending else nullcontext()
    with expected, ranks.process_group(CPU):
        if ending:
            raise ending
    assert len(calls) == destroyed
    if not destroyed:
        destroy()


def test_the_only_process_works_on_the_device_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Triton launches its kernels on the current device, whatever the tensors lie on."""
    current, seen = [torch.device("cuda", 0)], []

    @contextmanager
    def on(device: torch.device):
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(run, "_train", lambda job, device: seen.append((device, current[-1])))
    run.run_training(job_in(tmp_path, device="cuda:1"))
    assert seen == [(torch.device("cuda", 1),) * 2]


def test_options_that_machines_may_differ_in_are_not_compared(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    for data, train in ((replace(job.data, workers=3), job.train), (job.data, replace(job.train, device="cuda"))):
        assert replace(job, data=data, train=train).shared == job.shared
    for data, train in ((replace(job.data, flip=0.1), job.train), (job.data, replace(job.train, seed=1))):
        assert replace(job, data=data, train=train).shared != job.shared


def test_the_only_process_begins_again_from_what_it_saved_when_it_loses_a_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --override too: what was replaced is not replaced again."""
    job = job_in(tmp_path, max_restarts=2, override=True)
    job.path.write_text("another model")
    anew = []

    def train(given: TrainingJob) -> None:
        anew.append(given.train.override)
        if len(anew) == 2:
            given.path.unlink()
            given.path.write_text("of this run")
        if len(anew) < 4:
            lose_a_reader(given)

    with pytest.raises(RuntimeError, match="DataLoader worker"):
        train_alone(train, job)
    assert anew == [True, True, False]
    told = capsys.readouterr().err.splitlines()
    assert ["--workers" in line and f"(restart {n} of 2)" in line for n, line in enumerate(told, 1)] == [True, True]
    train_alone(train, job)
    with pytest.raises(RuntimeError, match="a bug"):
        train_alone(fail_by_a_bug, job)


def fail_by_a_bug(job: TrainingJob) -> None:
    raise RuntimeError("a bug")
