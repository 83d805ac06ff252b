"""Two processes learn what one does from the same global batches, whatever is in them."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from rank_processes import free_port, on_two_ranks, rank_environment
from step_cases import make_step, poison, state_of
from torch import nn
from train_process import LIMIT, begin, command, finish, kill_group, ranks_of, wait_for_step

from command_line import Command, Shapes, assert_same, checkpoint, metric_rows
from retinanet.config import TrainConfig
from retinanet.errors import UsageError
from retinanet.train import distributed, ranks
from retinanet.types import Batch


def share(batch: Batch, rank: int) -> Batch:
    return Batch(*(tensor[rank::2] for tensor in batch))


def blank(batch: Batch) -> Batch:
    return batch._replace(image_sizes=torch.zeros_like(batch.image_sizes), labels=torch.full_like(batch.labels, -1))


def steps_of(rank: int, batches: list[Batch]) -> dict[str, Any]:
    """States after steps in which a rank has its share, nothing at all, or losses that are not finite."""
    found: dict[str, Any] = {}
    frozen = make_step(weights="pretrained", parts=2)
    found["frozen"] = [frozen(share(batch, rank), 0.01) for batch in batches[:2]]
    found["frozen state"] = state_of(frozen)["network"]
    found["gradients"] = [parameter.grad.clone() for parameter in frozen.parameters]
    lonely = make_step(weights="pretrained")
    found["lonely"] = lonely(blank(batches[0]) if rank else batches[0], 0.01)
    found["lonely state"] = state_of(lonely)["network"]
    live = make_step(ema=0.5)
    found["live"] = live(share(batches[0], rank), 0.01)
    before = state_of(live)
    found["live state"] = before
    if rank:
        poison(live, math.nan, forward=False)
    found["bad"] = live(share(batches[1], rank), 0.01).bad.item()
    assert_same(state_of(live), before)
    return found


def test_a_step_of_two_ranks_is_the_step_of_the_whole_batch(batches: list[Batch]) -> None:
    whole, lonely = make_step(weights="pretrained"), make_step(weights="pretrained")
    losses = [whole(batch, 0.01) for batch in batches[:2]]
    alone = lonely(batches[0], 0.01)
    both = on_two_ranks(steps_of, batches[:2])
    for found in both:
        torch.testing.assert_close(found["frozen"], losses, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found["frozen state"], dict(whole.network.state_dict()), rtol=1e-4, atol=1e-5)
        for one, parameter in zip(found["gradients"], whole.parameters, strict=True):
            torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found["lonely"], alone, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found["lonely state"], dict(lonely.network.state_dict()), rtol=1e-5, atol=1e-6)
        assert found["bad"] == 1  # on both, though the loss of one was sound
    # Live batch norm saw other images on each, but both keep the same.
    assert_same(both[1]["live state"], both[0]["live state"])


def with_trouble(data: Shapes) -> None:
    """Two images that break, and few that have objects: a rank often has none."""
    paths = sorted(data.images.iterdir())
    paths[2].write_bytes(paths[2].read_bytes()[:500])
    paths[5].write_bytes(b"no picture")
    content = json.loads(data.annotations.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] % 4 == 0]
    data.annotations.write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "change"), [(4, None), (5, with_trouble)])
def test_two_processes_train_what_one_does(
    train: Command, own_shapes: Shapes, tmp_path: Path, batch: int, change: Callable[[Shapes], None] | None
) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "backbone.pth"  # batch norm is frozen with weights
    torch.save(timm.create_model("test_resnet").state_dict(), weights)
    if change:
        change(own_shapes)
    models = [tmp_path / str(devices) / "model.pth" for devices in (1, 2)]
    options = {**own_shapes.validation, "weights": weights, "optimizer": "sgd", "lr": 0.02, "warmup": 0, "batch": batch}
    said = []
    for devices, model in zip((1, 2), models, strict=True):
        model.parent.mkdir()
        done = train(model, data=own_shapes, **options, epochs=3, devices=devices)
        assert done.code == 0, done.err
        said.append(done.err)
    one, two = (metric_rows(model) for model in models)
    assert len(one) == len(two) == 4  # three validations, and the losses of the last step
    for row, other in zip(one, two, strict=True):
        assert row.keys() == other.keys()
        for column, value in row.items():
            assert float(other[column] or 0) == pytest.approx(float(value or 0), rel=2e-3, abs=1e-4), column
    first, second = (checkpoint(model) for model in models)
    torch.testing.assert_close(second["state_dict"], first["state_dict"], rtol=1e-3, atol=1e-5)
    moved = differ = 0.0
    for name, origin in torch.load(weights).items():
        ends = [content["state_dict"].get(f"backbones.0.body.{name}", origin) for content in (first, second)]
        moved += float((ends[0] - origin).double().square().sum())
        differ += float((ends[1] - ends[0]).double().square().sum())
    assert moved > 0
    assert differ < 1e-4 * moved  # one hundredth of the way
    lists = [model.with_name("model.problems.tsv") for model in models]
    assert [path.exists() for path in lists] == [change is not None] * 2
    if change:
        contents = [sorted(path.read_text().splitlines()) for path in lists]
        assert contents[0] == contents[1]
        assert sum("unusable image" in line for line in contents[0]) == 2


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=LIMIT
    )


@pytest.mark.slow
def test_torchrun_runs_the_same_command(shapes: Shapes, train: Command, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    models = [tmp_path / "model.pth", tmp_path / "own" / "model.pth"]
    options = {**shapes.validation, "iters": 8}
    torchrun = ["-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", f"--master-port={free_port()}"]
    words = command(models[0], shapes, **options)
    done = run([words[0], *torchrun, *words[1:]])
    assert done.returncode == 0, done.stderr
    assert train(models[1], **options, devices=2).code == 0
    assert_same(checkpoint(models[0]), checkpoint(models[1]))
    assert metric_rows(models[0]) == metric_rows(models[1])


@pytest.mark.slow
def test_a_stop_under_torchrun_is_one_however_often_it_is_said(shapes: Shapes, tmp_path: Path) -> None:
    """A scheduler may signal all processes, of which torchrun passes its own signal on."""
    model = tmp_path / "model.pth"
    python, *words = command(model, shapes, iters=100_000, save_every=0, warmup=10)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=1", f"--master-port={free_port()}"]
    process = begin([python, *torchrun, *words])
    try:
        wait_for_step(process, model, 1)
        (rank,) = ranks_of(process, "retinanet.cli")
        for _ in range(3):
            os.kill(rank, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        said = finish(process)[1]
    finally:
        kill_group(process)
    (line,) = [line for line in said.splitlines() if line.startswith("retinanet: ")]
    step = checkpoint(model)["training_state"]["step"]
    assert f"Stopped after step {step} of 100000" in line
    assert line.endswith("give the same command, the launcher's part included, to go on.")


@pytest.mark.slow
def test_processes_that_were_given_other_options_are_refused(shapes: Shapes, tmp_path: Path) -> None:
    port = free_port()
    words = [command(tmp_path / "model.pth", shapes, iters=2, seed=rank) for rank in range(2)]
    both = [
        subprocess.Popen(given, env={**os.environ, **rank_environment(rank, port)}, stderr=subprocess.PIPE, text=True)
        for rank, given in enumerate(words)
    ]
    for process in both:
        code, said = finish(process)
        assert code == 2, said
        assert "the same model, data and options" in said.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_mistake_of_the_user_is_told_once_and_ends_the_run(
    train: Command, own_shapes: Shapes, tmp_path: Path
) -> None:
    for path in own_shapes.images.iterdir():
        path.write_bytes(b"no picture")
    done = train(tmp_path / "model.pth", data=own_shapes, devices=2, epochs=2)
    assert done.code == 3
    assert "None of the images" in done.sentence
    assert "restart" not in done.err
    assert len((tmp_path / "model.problems.tsv").read_text().splitlines()) == 19


@pytest.mark.slow
def test_a_full_disk_ends_all_ranks_with_one_sentence_and_keeps_the_last_checkpoint(
    train: Command, tmp_path: Path
) -> None:
    model = tmp_path / "model.pth"
    assert train(model, iters=2).code == 0
    before = model.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        done = train(model, iters=4, devices=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.code == 1
    assert "model.pth" in done.sentence
    assert "restart" not in done.err
    assert model.read_bytes() == before


def as_rank(shapes: Shapes, model: Path, port: int, **options: Any) -> subprocess.CompletedProcess[str]:
    return run(command(model, shapes, **options), **rank_environment(0, port))


def test_a_port_that_is_taken_is_one_sentence(shapes: Shapes, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = as_rank(shapes, tmp_path / "model.pth", port, iters=1)
    assert done.returncode == 2, done.stderr
    assert f"127.0.0.1:{port}" in done.stderr
    assert "MASTER_PORT" in done.stderr
    assert "Traceback" not in done.stderr


WAITING = """
import sys, time, torch
from retinanet.train import ranks
from retinanet.train.distributed import Tally
ranks.PATIENCE = 3.0
with ranks.process_group(torch.device("cpu")):
    Tally("step 1", 1).read()
    print("met", flush=True)
    if sys.argv[1] == "1":
        time.sleep(600)
    Tally("step 2", 1).read()
"""


def test_a_rank_that_does_not_come_is_named() -> None:
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WAITING, str(rank)],
            env={**os.environ, **rank_environment(rank, port)},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said, told = processes[0].communicate(timeout=LIMIT)
        assert said.strip() == "met"
        assert processes[0].returncode == 1
        assert "Rank 0 waited 3 seconds for step 2, but rank 1 did not come" in told
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("gpus", "options", "expected"),
    [
        (0, {}, 1),
        (0, {"devices": 3}, 3),
        (4, {}, 4),
        (4, {"devices": 2}, 2),
        (4, {"device": "cuda"}, 4),
        (4, {"device": "cuda:1"}, 1),
        (4, {"device": "cpu"}, 1),
        (4, {"device": "cpu", "devices": 2}, 2),
    ],
)
def test_every_gpu_is_used_unless_fewer_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, gpus: int, options: dict, expected: int
) -> None:
    pretend(monkeypatch, gpus)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert ranks.count_devices(TrainConfig(**options)) == expected


@pytest.mark.parametrize(
    ("options", "nccl", "words"),
    [
        ({"devices": 3}, True, ["--devices", "3 GPUs", "has 2"]),
        ({"device": "cuda:1", "devices": 2}, True, ["--device cuda:1", "--devices"]),
        ({}, False, ["NCCL", "--devices 1"]),
    ],
)
def test_devices_that_cannot_work_are_refused(
    monkeypatch: pytest.MonkeyPatch, options: dict, nccl: bool, words: list[str]
) -> None:
    pretend(monkeypatch, 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)
    with pytest.raises(UsageError) as refused:
        ranks.count_devices(TrainConfig(**options))
    assert all(word in str(refused.value) for word in words)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1)
    for name, value in rank_environment(1, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="process 1 has none"):
        ranks.device_of_rank(TrainConfig())


def test_batch_norm_is_synchronised_where_it_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    for weights, kind in (("none", nn.SyncBatchNorm), ("pretrained", nn.BatchNorm2d)):
        network = make_step(weights=weights).network
        names = list(network.state_dict())
        norms = [m for m in distributed.synchronise_batch_norm(network).modules() if "BatchNorm" in type(m).__name__]
        assert norms
        assert {isinstance(norm, nn.SyncBatchNorm) for norm in norms} == {kind is nn.SyncBatchNorm}
        assert list(network.state_dict()) == names
