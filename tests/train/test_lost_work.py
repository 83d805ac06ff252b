"""No work is lost: real processes, killed and stopped at random, end in the checkpoint of a run that was left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import free_port
from train_process import begin as begin_process
from train_process import children_of, command, finish, gone, kill_group, ranks_of, start, wait_for_step

from command_line import Command, Shapes, assert_same, checkpoint

STEPS = 120
TOGETHER = 40
"""Steps of runs on two devices, which take longer."""
LOGGED = 20
"""A step of theirs that the log has a line for."""
OFTEN: dict[str, Any] = {"iters": STEPS, "save_every": 0, "warmup": 10}
PAIR = {**OFTEN, "devices": 2, "iters": TOGETHER}

pytestmark = pytest.mark.slow


@pytest.fixture
def begin(shapes: Shapes) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a training; what a failed test leaves of it is killed."""
    begun = []

    def run(model: Path, **options: Any) -> subprocess.Popen[str]:
        begun.append(start(model, shapes, **{**OFTEN, **options}))
        return begun[-1]

    yield run
    for process in begun:
        kill_group(process)


@pytest.fixture(scope="module")
def alone(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run on one device that nobody disturbs comes to."""
    model = tmp_path_factory.mktemp("alone") / "model.pth"
    assert finish(start(model, shapes, **OFTEN))[0] == 0
    return model


@pytest.fixture(scope="module")
def together(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on two."""
    model = tmp_path_factory.mktemp("together") / "model.pth"
    assert finish(start(model, shapes, **PAIR))[0] == 0
    return model


def test_a_killed_run_that_goes_on_comes_to_the_same_weights(begin, alone: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    for step in (1, STEPS // 3):
        process = begin(model)
        wait_for_step(process, model, step)
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
    assert checkpoint(model)["training_state"]["step"] < STEPS
    assert finish(begin(model))[0] == 0
    assert_same(checkpoint(model), checkpoint(alone))
    assert {path.suffix for path in tmp_path.iterdir() if not path.name.startswith(".")} == {".pth", ".csv", ".toml"}


def test_killing_the_launcher_ends_its_ranks_and_the_run_can_go_on(begin, together: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    process = begin(model, **PAIR)
    wait_for_step(process, model, 1)
    ranks = ranks_of(process)
    assert len(ranks) == 2
    process.kill()
    assert gone(ranks)
    assert checkpoint(model)["training_state"]["step"] < TOGETHER
    assert finish(begin(model, **PAIR))[0] == 0
    assert_same(checkpoint(model), checkpoint(together))


def test_a_rank_that_dies_restarts_the_run_from_its_last_checkpoint(begin, together: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    torch.save("another model, to be replaced", model)
    process = begin(model, **PAIR, override=True)
    while model.stat().st_size < 10_000:  # until the run's own
        assert process.poll() is None
    wait_for_step(process, model, LOGGED)
    ranks = ranks_of(process)
    os.kill(ranks[-1], signal.SIGKILL)
    code, said = finish(process)
    assert code == 0, said
    assert "Starting all 2 processes again from the last checkpoint (restart 1 of 2)" in said
    assert "SIGKILL" in said
    assert "Traceback" not in said
    assert said.count(f"step {LOGGED}/{TOGETHER}") == 1  # it was not taken again
    assert_same(checkpoint(model), checkpoint(together))


def test_the_only_process_goes_on_when_one_that_reads_images_dies(begin, alone: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    process = begin(model, workers=1)
    wait_for_step(process, model, 1)
    (reader,) = children_of(process.pid, "retinanet.cli")
    os.kill(reader, signal.SIGKILL)
    code, said = finish(process)
    assert code == 0, said
    assert "Starting again from the last checkpoint (restart 1 of 2)" in said
    assert "Traceback" not in said
    assert_same(checkpoint(model), checkpoint(alone))


def test_a_process_that_reads_images_and_dies_restarts_the_run(begin, together: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    process = begin(model, **PAIR, workers=1)
    wait_for_step(process, model, 1)
    (reader,) = children_of(ranks_of(process)[0], "spawn_main")
    os.kill(reader, signal.SIGKILL)
    code, said = finish(process)
    assert code == 0, said
    (line,) = [line for line in said.splitlines() if "Starting all 2 processes again" in line]
    assert "A process that reads images was ended" in line
    assert "--workers" in line
    assert "Traceback" not in said
    assert_same(checkpoint(model), checkpoint(together))


def test_a_run_that_torchrun_restarts_goes_on_though_it_replaces_a_model(
    together: Path, shapes: Shapes, tmp_path: Path
) -> None:
    """Of a model of the same options, so that only its age tells that it is not the run's own."""
    model = tmp_path / "model.pth"
    shutil.copy(together, model)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1", f"--master-port={free_port()}"]
    python, *words = command(model, shapes, **{**PAIR, "devices": None}, override=True)
    process = begin_process([python, *launcher, *words])
    try:
        while checkpoint(model)["training_state"]["step"] == TOGETHER:  # until the run's own
            assert process.poll() is None, process.communicate()[1]
        wait_for_step(process, model, LOGGED)
        os.kill(ranks_of(process, "retinanet.cli")[-1], signal.SIGKILL)
        code, said = finish(process)
    finally:
        kill_group(process)
    assert code == 0, said
    assert said.count(f"step {LOGGED}/{TOGETHER}") == 1  # it was not taken again
    assert_same(checkpoint(model), checkpoint(together))


def test_a_rank_that_dies_too_often_ends_the_run_with_one_sentence(begin, tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    process = begin(model, **PAIR, max_restarts=0)
    wait_for_step(process, model, 1)
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    code, said = finish(process)
    assert code == 1
    assert said.splitlines()[-1].startswith("retinanet: The process of rank 0 ended (SIGKILL).")
    assert "same command" in said.splitlines()[-1]
    assert 1 <= checkpoint(model)["training_state"]["step"] < TOGETHER


@pytest.mark.parametrize("to_all", [True, False])
def test_a_stop_reaches_all_ranks_and_the_command_that_is_printed_goes_on(
    begin, together: Path, tmp_path: Path, to_all: bool
) -> None:
    model = tmp_path / "model.pth"
    process = begin(model, **PAIR, workers=1, override=True)
    wait_for_step(process, model, 1)
    if to_all:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    else:
        process.send_signal(signal.SIGTERM)  # as an init process, or a scheduler
    code, said = finish(process)
    assert code == 6, said
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    step = checkpoint(model)["training_state"]["step"]
    assert f"Stopped after step {step} of {TOGETHER}" in last
    assert "--override" not in last
    words = last.partition("same command to go on: ")[2].split()
    assert words[:3] == ["retinanet", "train", str(model)]
    assert {"--devices", "--save-every"} < set(words)
    if to_all:
        return
    assert finish(begin(model, **PAIR))[0] == 0
    assert_same(checkpoint(model), checkpoint(together))


def test_a_second_signal_stops_at_once(begin, tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    process = begin(model, **{**PAIR, "iters": 100_000})
    wait_for_step(process, model, 1)
    ranks = ranks_of(process)
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)  # so that they cannot follow the first
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 6
    assert said.splitlines()[-1] == "retinanet: Interrupted; nothing was saved since the last checkpoint."
    assert gone(ranks)


def test_another_number_of_devices_goes_on_and_says_what_changes(begin, train: Command, tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    process = begin(model, **{**PAIR, "iters": 8}, optimizer="sgd")
    assert finish(process)[0] == 0
    done = train(model, optimizer="sgd", iters=12, warmup=10)
    assert done.code == 0
    assert "was trained on 2 devices, and goes on with 1" in done.err
    assert "4 images of a batch in place of 2" in done.err
    assert checkpoint(model)["training_state"]["step"] == 12
