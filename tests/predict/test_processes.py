"""Several processes: who takes which images, and, with real processes on the CPU, that one may die alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import Command, Shapes, words_of
from retinanet.config import InferConfig
from retinanet.data.sampler import BLANK, PredictPlan
from retinanet.errors import UsageError
from retinanet.predict import processes
from retinanet.predict.processes import choose_processes


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_processes_share_the_wanted_images_without_overlap(world: int) -> None:
    canvas_of_image = np.array([0, 1] * 20 + [1])
    wanted = np.flatnonzero(np.arange(41) % 3)
    plans = [PredictPlan(canvas_of_image, [(32, 64), (64, 32)], 4, wanted, rank, world) for rank in range(world)]
    batches = [plan.batch(step) for plan in plans for step in range(plan.steps_per_epoch)]
    taken = np.concatenate([batch.indices for batch in batches])
    assert sorted(taken[taken != BLANK]) == wanted.tolist()
    for batch in batches:
        assert len({int(canvas_of_image[index]) for index in batch.indices if index != BLANK}) == 1
    counts = [plan.steps_per_epoch for plan in plans]
    assert max(counts) - min(counts) <= 1


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("options", "images", "gpu", "expected"),
    [
        ({}, 100, True, ["cuda:0"]),  # not worth a second process's start
        ({}, 2000, True, ["cuda:0", "cuda:1"]),
        ({}, 100_000, True, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ({}, 100_000, False, ["cpu"]),  # a model for whatever its runtime finds
        ({"devices": 2}, 100_000, True, ["cuda:0", "cuda:1"]),
        ({"devices": 2}, 100_000, False, ["cuda:0", "cuda:1"]),
        ({"devices": 4}, 17, True, ["cuda:0", "cuda:1", "cuda:2"]),  # batches of 8
        ({"device": "cuda"}, 2000, True, ["cuda:0", "cuda:1"]),
        ({"device": "cuda:1"}, 100_000, True, ["cuda:1"]),
        ({"device": "cpu"}, 100_000, True, ["cpu"]),
        ({"device": "cpu", "devices": 3}, 100_000, True, ["cpu"] * 3),
        ({"device": "cpu", "devices": 3}, 9, True, ["cpu"] * 2),
    ],
)
def test_the_number_of_processes(options: dict, images: int, gpu: bool, expected: list[str]) -> None:
    model = Path("model.pth" if gpu else "model.onnx")
    assert choose_processes(InferConfig(**options), model, range(images)) == expected


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("options", "words"),
    [({"devices": 5}, "this machine has 4 CUDA"), ({"devices": 2, "device": "cuda:1"}, "--device cuda:1 is one GPU")],
)
def test_more_devices_than_there_are(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose_processes(InferConfig(**options), Path("model.plan.pth"), range(100_000))


@pytest.mark.parametrize(
    ("given", "device", "seen"),
    [(None, "cuda:1", "1"), ("4,GPU-7", "cuda:1", "GPU-7"), ("4,GPU-7", "cpu", "4,GPU-7"), (None, "cpu", "None")],
)
def test_a_process_sees_its_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, given: str | None, device: str, seen: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    script = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    with processes.only_visible(device):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == seen
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == given


@pytest.fixture
def infer(retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path) -> Command:
    def run(**options: object):
        given = {**shapes.held_out, "batch": 1, "output": tmp_path / "detections.json", **options}
        return retinanet("infer", trained, **given)

    return run


def entries(path: Path) -> list[dict]:
    return sorted(json.loads(path.read_text()), key=lambda entry: (entry["image_id"], -entry["score"], entry["bbox"]))


@pytest.mark.slow
def test_two_processes_find_what_one_does(infer: Command, tmp_path: Path) -> None:
    two = infer(devices=2, draw=tmp_path / "drawn")
    assert two.code == 0
    one = infer(output=tmp_path / "one.json")
    assert entries(tmp_path / "detections.json") == entries(tmp_path / "one.json")
    assert two.out == one.out
    assert len(list((tmp_path / "drawn").iterdir())) == 7
    assert {path.name for path in tmp_path.iterdir()} == {"detections.json", "one.json", "drawn"}


@pytest.mark.slow
def test_one_dies_the_others_results_are_kept_and_resuming_does_the_rest(
    infer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = processes._start

    def start(work, device):
        started = original(work, device)
        if work.rank == 1:
            started.process.kill()
        return started

    monkeypatch.setattr(processes, "_start", start)
    died = infer(devices=2)
    assert died.code == 1
    assert "Process 2 of 2 (cpu)" in died.sentence
    assert "SIGKILL" in died.sentence
    assert "4 of 7 images are done and kept" in died.err
    assert not (tmp_path / "detections.json").exists()
    monkeypatch.undo()
    assert infer(resume=True).code == 0
    assert infer(output=tmp_path / "one.json").code == 0
    assert entries(tmp_path / "detections.json") == entries(tmp_path / "one.json")


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_told_in_its_sentence(
    infer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures cannot be written, for there is a file where their folder should be."""
    monkeypatch.setattr("retinanet.predict.infer.make_picture_folder", lambda folder: folder.touch())
    failed = infer(devices=2, draw=tmp_path / "drawn")
    assert failed.code == 1
    assert "Process 1 of 2 (cpu) failed: " in failed.sentence
    assert "drawn" in failed.sentence
    assert not (tmp_path / "detections.json.partial").exists()  # nothing was done


@pytest.mark.slow
def test_interrupted_processes_finish_what_they_began(
    trained: Path, shapes: Shapes, infer: Command, tmp_path: Path
) -> None:
    """Asked from outside, as by a scheduler, at the first sign of a result."""
    output = tmp_path / "detections.json"
    many = tmp_path / "many.txt"
    paths = sorted(map(str, shapes.val_images.iterdir()))
    many.write_text("\n".join(paths * 100))
    options = words_of({"images": many, "output": output, "device": "cpu", "devices": 2, "batch": 1, "workers": 0})
    process = subprocess.Popen(
        [sys.executable, "-m", "retinanet.cli", "infer", str(trained), *options], stderr=subprocess.PIPE, text=True
    )
    lines = Path(f"{output}.partial/0.done")
    until = time.monotonic() + 300
    while not (lines.exists() and lines.stat().st_size) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 6, err
    assert "of 700 images are done and kept" in err
    assert not output.exists()
    resumed = infer(images=many, annotations=None, resume=True, batch=8)
    assert resumed.code == 0
    assert "detections in 700 images" in resumed.err
    # Each picture is there a hundred times.
    images = Counter((entry["image_id"] - 1) % len(paths) for entry in entries(output))
    assert images
    assert all(count % 100 == 0 for count in images.values())
