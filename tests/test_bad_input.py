"""Mistakes at the command line: one sentence, the right exit code, before the first step, and nothing is harmed.

What can be wrong with annotations and pictures themselves is judged in tests/data, with checkpoints in tests/model.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from command_line import SMALL, Command, Done, Shapes, checkpoint, words_of
from retinanet.train.step import TrainStep


@pytest.fixture
def no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes to train has checked too late."""

    def refuse(*_: object) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(TrainStep, "__call__", refuse)


def rename_class(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))


def change_ids(path: Path, move: Callable[[int], int]) -> None:
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["id"] = move(category["id"])
    for annotation in content["annotations"]:
        annotation["category_id"] = move(annotation["category_id"])
    path.write_text(json.dumps(content))


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"images": "nowhere"}, 3, ["nowhere", "does not exist"]),
        ({"images": "empty"}, 3, ["empty"]),
        ({"annotations": "nowhere.json"}, 3, ["nowhere.json"]),
        ({"annotations": "text.json"}, 3, ["text.json", "COCO"]),
        ({"device": "cuda:7"}, 2, ["--device cuda:7", "cpu"]),
        ({"device": "gpu"}, 2, ["--device", "gpu"]),
        ({"device": "meta"}, 2, ["--device", "meta"]),
        ({"val_images": "empty"}, 2, ["--val-images", "--val-annotations"]),
        ({"val_annotations": "text.json"}, 2, ["--val-images", "--val-annotations"]),
        ({"weights": "nowhere.pth"}, 2, ["--weights", "nowhere.pth"]),
        ({"weights": "text.json"}, 4, ["text.json"]),
        ({"backbone": "resnet5000"}, 2, ["--backbone", "resnet5000"]),
        ({"seed": -1}, 2, ["--seed"]),
        ({"lr": "nan"}, 2, ["--lr"]),
    ],
)
def test_training_refuses_before_its_first_step(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, code: int, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("no JSON")
    done = train(Path("model.pth"), iters=1, **options)
    assert done.code == code
    assert all(word in done.sentence for word in words)
    assert done.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "text.json"}


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing/model.pth", ["no folder"]),
        ("folder", ["is a folder"]),
        ("/proc/model.pth", ["/proc"]),  # not even root may write there
    ],
)
def test_a_checkpoint_that_cannot_be_written(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    done = train(Path(path), iters=1)
    assert done.code == 2
    assert all(word in done.sentence for word in words)


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize("damage", ["truncated", "other", "text"])
@pytest.mark.parametrize("command", ["train", "infer"])
def test_a_checkpoint_that_is_not_ours(
    retinanet: Command, train: Command, trained: Path, shapes: Shapes, tmp_path: Path, command: str, damage: str
) -> None:
    model = tmp_path / "model.pth"
    if damage == "truncated":
        model.write_bytes(trained.read_bytes()[:-1000])
    elif damage == "other":
        torch.save({"state_dict": {}}, model)
    else:
        model.write_text("not a model")
    before = model.read_bytes()
    output = tmp_path / "detections.json"
    done = train(model) if command == "train" else retinanet("infer", model, **shapes.held_out, output=output)
    assert done.code == 4
    assert "model.pth" in done.sentence
    assert model.read_bytes() == before
    assert list(tmp_path.iterdir()) == [model]


def infer(retinanet: Command, model: Path, shapes: Shapes, folder: Path, **options: object) -> Done:
    return retinanet("infer", model, **{**shapes.held_out, "output": folder / "detections.json", **options})


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"images": "nowhere"}, 3, ["nowhere"]),
        ({"images": "nowhere", "annotations": None}, 3, ["nowhere"]),
        ({"images": "empty", "annotations": None}, 3, ["empty"]),
        ({"images": "text.jpg", "annotations": None}, 3, ["text.jpg"]),
        ({"annotations": "nowhere.json"}, 3, ["nowhere.json"]),
        ({"output": "missing/detections.json"}, 2, ["missing"]),
        ({"draw": "text.jpg"}, 2, ["--draw", "text.jpg"]),
        ({"device": "cuda:7"}, 2, ["--device"]),
        ({"batch": 0}, 2, ["--batch"]),
    ],
)
def test_inference_refuses(
    retinanet: Command,
    trained: Path,
    shapes: Shapes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict,
    code: int,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    done = infer(retinanet, trained, shapes, tmp_path, **options)
    assert done.code == code
    assert all(word in done.sentence for word in words)
    assert done.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "text.jpg"}


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize("command", ["train", "infer"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: rename_class(path, "disc", "ball"), "3 ball"),  # the id is the model's disc
        (lambda path: change_ids(path, {3: 3, 17: 44, 44: 17}.__getitem__), "17 triangle"),
        (lambda path: change_ids(path, lambda id_: id_ + 100), "103 disc"),
    ],
)
def test_annotations_that_contradict_the_models_classes(
    retinanet: Command,
    train: Command,
    trained: Path,
    own_shapes: Shapes,
    tmp_path: Path,
    command: str,
    change: Callable[[Path], None],
    words: str,
) -> None:
    change(own_shapes.val_annotations)
    if command == "train":
        done = train(tmp_path / "model.pth", data=own_shapes, **own_shapes.validation)
    else:
        done = infer(retinanet, trained, own_shapes, tmp_path)
    assert done.code == 3
    assert words in done.sentence
    assert "val.json" in done.sentence
    assert "3 disc, 17 rectangle, 44 triangle" in done.sentence
    assert not (tmp_path / "model.pth").exists()
    assert not (tmp_path / "detections.json").exists()


def test_annotations_may_lack_classes_and_know_others(
    retinanet: Command, train: Command, trained: Path, own_shapes: Shapes, tmp_path: Path
) -> None:
    content = json.loads(own_shapes.val_annotations.read_text())
    content["categories"] = [c for c in content["categories"] if c["id"] != 44] + [{"id": 99, "name": "star"}]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 44]
    own_shapes.val_annotations.write_text(json.dumps(content))
    assert infer(retinanet, trained, own_shapes, tmp_path).code == 0
    assert train(tmp_path / "model.pth", data=own_shapes, iters=1, **own_shapes.validation).code == 0


def test_absent_and_unreadable_images_are_told(
    retinanet: Command, trained: Path, own_shapes: Shapes, tmp_path: Path
) -> None:
    absent, broken, *_ = sorted(own_shapes.val_images.iterdir())
    absent.unlink()
    broken.write_bytes(broken.read_bytes()[:600])
    done = infer(retinanet, trained, own_shapes, tmp_path)
    assert done.code == 0
    assert f"Left out: 1 image; the first: {absent.name}" in done.err
    assert str(broken) in done.err
    assert {1, 2} & {entry["image_id"] for entry in json.loads((tmp_path / "detections.json").read_text())} == set()
    for path in own_shapes.val_images.iterdir():
        path.write_bytes(b"")
    done = infer(retinanet, trained, own_shapes, tmp_path, output=tmp_path / "none.json")
    assert done.code == 3
    assert not (tmp_path / "none.json").exists()


def test_a_disk_that_fills_up_while_saving_keeps_the_last_checkpoint(train: Command, tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    assert train(model, iters=2).code == 0
    before = model.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        done = train(model, iters=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.code == 1
    assert "model.pth" in done.sentence
    assert model.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"model.pth", "model.config.toml", "metrics.csv"}
    assert train(model, iters=4).code == 0
    assert checkpoint(model)["training_state"]["step"] == 4


def test_a_table_of_metrics_that_is_not_ours_is_left_alone(train: Command, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,accuracy\n1,0.5\n")
    done = train(tmp_path / "model.pth", iters=1)
    assert done.code == 2
    assert "metrics.csv" in done.sentence
    assert (tmp_path / "metrics.csv").read_text() == "epoch,accuracy\n1,0.5\n"


def test_a_table_that_a_killed_run_left_half_written(train: Command, tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    assert train(model, iters=1).code == 0
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("model.pth,4")
    assert train(model, iters=2).code == 0
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines] == ["step", "1", "2"]


def test_a_batch_larger_than_the_data(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path / "model.pth", batch=64, epochs=1).code == 0
    assert checkpoint(tmp_path / "model.pth")["training_state"]["step"] == 2  # one for each canvas


def test_limits_larger_than_what_there_is(retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path) -> None:
    done = infer(retinanet, trained, shapes, tmp_path, top_n=100_000, detections=200, threshold=1e-6)
    assert done.code == 0
    assert len(json.loads((tmp_path / "detections.json").read_text())) > 7 * 100


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore"), ["allocate 9 GiB", "--batch"]),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. More"), ["Bus error", "--workers"]),
    ],
)
def test_memory_that_is_too_small(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: list[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(TrainStep, "__call__", fail)
    done = train(tmp_path / "model.pth", iters=1)
    assert done.code == 1
    assert all(word in done.sentence for word in words)


def test_other_errors_are_ours_and_keep_their_traceback(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(TrainStep, "__call__", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        train(tmp_path / "model.pth", iters=1)


def test_pretrained_weights_without_cache_and_network(shapes: Shapes, tmp_path: Path) -> None:
    """Nothing trains from noise by accident."""
    options = {**shapes.training, **SMALL, "weights": None}
    done = subprocess.run(
        [sys.executable, "-m", "retinanet.cli", "train", str(tmp_path / "model.pth"), *words_of(options)],
        env={**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--weights FILE, or --weights none" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model.pth").exists()
