"""A run that is ended half-way, however: what was done is kept, and the same command with --resume does the rest."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from command_line import Command, Shapes, words_of
from retinanet.predict.predictor import Predictor

OPTIONS = {"batch": 1, "workers": 0}
Run = Callable[..., None]


@pytest.fixture
def infer(retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path) -> Command:
    def run(**options: object):
        given = {**shapes.held_out, **OPTIONS, "output": tmp_path / "detections.json", **options}
        return retinanet("infer", trained, **given)

    return run


class Interrupter:
    """Counts the batches of all runs; at the start of some it does something."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.acts: dict[int, Callable[[], None]] = {}
        original = Predictor.run

        def run(predictor: Predictor, batch: object):
            self.count += 1
            self.acts.get(self.count, lambda: None)()
            return original(predictor, batch)

        patch.setattr(Predictor, "run", run)


@pytest.fixture
def interrupter(monkeypatch: pytest.MonkeyPatch) -> Interrupter:
    return Interrupter(monkeypatch)


def entries(path: Path) -> list[dict]:
    return sorted(json.loads(path.read_text()), key=lambda entry: (entry["image_id"], -entry["score"], entry["bbox"]))


def metrics(text: str) -> list[str]:
    return [line for line in text.splitlines() if "@[" in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_is_done_and_resuming_does_the_rest(
    infer: Command, interrupter: Interrupter, tmp_path: Path, number: signal.Signals
) -> None:
    whole = infer(output=tmp_path / "whole.json")
    assert whole.code == 0
    assert interrupter.count == 7
    interrupter.acts[7 + 3] = lambda: os.kill(os.getpid(), number)
    stopped = infer()
    assert stopped.code == 6
    assert "3 of 7 images" in stopped.sentence
    assert "--resume" in stopped.sentence
    assert stopped.out == ""
    assert not (tmp_path / "detections.json").exists()

    resumed = infer(resume=True)
    assert resumed.code == 0
    assert interrupter.count == 7 + 3 + 4  # the missing ones alone
    assert entries(tmp_path / "detections.json") == entries(tmp_path / "whole.json")
    assert metrics(resumed.out) == metrics(whole.out)  # over all images, not over the rest
    assert {path.name for path in tmp_path.iterdir()} == {"detections.json", "whole.json"}


def test_a_second_signal_ends_at_once_and_still_keeps_what_is_done(
    infer: Command, interrupter: Interrupter, tmp_path: Path
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter.acts[5] = twice
    stopped = infer()
    assert stopped.code == 6
    assert "4 of 7 images" in stopped.sentence
    assert infer(resume=True).code == 0
    assert interrupter.count == 5 + 3


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
def test_a_process_ended_by_force_loses_at_most_what_was_in_flight(
    infer: Command, trained: Path, shapes: Shapes, interrupter: Interrupter, tmp_path: Path, ending: str
) -> None:
    output = tmp_path / f"detections.{ending}"
    script = (
        "import os, signal, sys, torch\n"
        "torch.set_num_threads(1)\n"  # as the tests, whose sums it must round alike
        "from retinanet.predict import work\n"
        "original, count = work.PartWriter.append, 0\n"
        "def append(*arguments):\n"
        "    global count\n"
        "    original(*arguments)\n"
        "    count += 1\n"
        "    if count == 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "work.PartWriter.append = append\n"
        "from retinanet.cli import main\n"
        "main()\n"
    )
    options = words_of({**shapes.held_out, **OPTIONS, "output": output})
    done = subprocess.run([sys.executable, "-c", script, "infer", str(trained), *options], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not output.exists()

    assert infer(output=output, resume=True).code == 0
    assert interrupter.count == 3
    assert {path.name for path in tmp_path.iterdir()} == {output.name}
    assert infer(output=tmp_path / f"whole.{ending}").code == 0
    one, other = (sorted(path.read_text().splitlines()) for path in (output, tmp_path / f"whole.{ending}"))
    assert [line.rstrip(",") for line in one] == [line.rstrip(",") for line in other]


def test_an_error_half_way_says_what_is_kept(infer: Command, interrupter: Interrupter, tmp_path: Path) -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    interrupter.acts[3] = fail
    failed = infer()
    assert failed.code == 1
    assert "--batch" in failed.sentence
    assert "2 of 7 images are done and kept" in failed.err
    interrupter.acts = {}
    assert infer(resume=True).code == 0
    assert interrupter.count == 3 + 5


def test_without_resume_it_starts_anew(infer: Command, interrupter: Interrupter, tmp_path: Path) -> None:
    interrupter.acts[3] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert infer().code == 6
    assert infer().code == 0
    assert interrupter.count == 3 + 7
    assert infer(resume=True).code == 0  # nothing unfinished is left, so this is a new run
    assert interrupter.count == 3 + 7 + 7


def test_resume_goes_with_one_model_and_its_options(
    infer: Command, interrupter: Interrupter, own_shapes: Shapes, tmp_path: Path
) -> None:
    interrupter.acts[3] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert infer().code == 6
    refused = infer(resume=True, threshold=0.2)
    assert refused.code == 2
    assert "--threshold was 0.05" in refused.sentence
    sorted(own_shapes.val_images.iterdir())[0].unlink()
    refused = infer(resume=True, images=own_shapes.val_images, annotations=own_shapes.val_annotations)
    assert refused.code == 2
    assert "the images changed" in refused.sentence
    assert infer(resume=True, workers=1, batch=2).code == 0  # these change nothing
    assert infer(output=Path("/dev/null"), resume=True).code == 2


def test_every_image_is_accounted_for(infer: Command, own_shapes: Shapes, tmp_path: Path) -> None:
    """With detections, without, unreadable or absent: also when a run was resumed with only unreadable ones left."""
    absent, truncated, text, *_ = sorted(own_shapes.val_images.iterdir())
    absent.unlink()
    truncated.write_bytes(truncated.read_bytes()[:600])
    text.write_text("no picture")
    ids = {image["id"] for image in json.loads(own_shapes.val_annotations.read_text())["images"]}
    options = {"images": own_shapes.val_images, "annotations": own_shapes.val_annotations}
    done = infer(**options, output=tmp_path / "out.jsonl", threshold=0.9)
    assert done.code == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {line["image_id"] for line in lines} == ids
    assert len(lines) == len(ids)
    assert sorted("error" in line for line in lines) == [False] * 4 + [True] * 3
    assert any(line.get("detections") == [] for line in lines)
    with (tmp_path / "out.failed.tsv").open(newline="") as file:
        failed = {int(row["image_id"]): row["reason"] for row in csv.DictReader(file, delimiter="\t")}
    assert failed == {line["image_id"]: line["error"] for line in lines if "error" in line}
    assert {name for name in (absent.name, truncated.name, text.name) if any(name in r for r in failed.values())} == {
        absent.name,
        truncated.name,
        text.name,
    }
    assert ": 3 images without results." in done.err


def test_only_broken_images_are_left_to_resume(
    infer: Command, own_shapes: Shapes, interrupter: Interrupter, tmp_path: Path
) -> None:
    *_, last = sorted(own_shapes.val_images.iterdir())
    last.write_bytes(last.read_bytes()[:600])
    options = {"images": own_shapes.val_images, "annotations": own_shapes.val_annotations}
    for batch in (6, 7):  # the broken image is the last batch of its canvas, or the one before
        interrupter.acts[batch] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert infer(**options).code == 6
    interrupter.acts = {}
    assert infer(**options, resume=True).code == 0
    assert (tmp_path / "detections.failed.tsv").read_text().count("\n") == 2
