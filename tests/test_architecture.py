"""What the structure promises: a batch crosses few files, imports are light, optional packages are optional."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

import retinanet as package
from command_line import Command, Shapes
from retinanet.predict import dataset
from retinanet.predict.predictor import Predictor
from retinanet.train import log
from retinanet.train.log import TrainLog

ROOT = Path(package.__file__).parent

TRAINING_FILES = 25
INFERENCE_FILES = 25
"""Whoever follows a batch opens these many files. Lower them when the number falls; think before raising them."""


class Crossing:
    """Collects the package's files whose functions run between two calls of a method."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, first: int) -> None:
        self.files: set[str] = set()
        self.calls = 0
        function: Callable = getattr(owner, method)

        def count_then_call(*arguments: object) -> object:
            result = function(*arguments)
            self.calls += 1
            if self.calls == first:
                sys.setprofile(self.note)
            elif self.calls == first + 1:
                sys.setprofile(None)
            return result

        monkeypatch.setattr(owner, method, count_then_call)

    def note(self, frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            self.files.add(str(path.relative_to(ROOT)))


@pytest.fixture
def crossing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Crossing]]:
    yield partial(Crossing, monkeypatch)
    sys.setprofile(None)


def test_a_training_step_crosses_few_files(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crossing: Callable[..., Crossing]
) -> None:
    """From reading the images to the line in metrics.csv."""
    monkeypatch.setattr(log, "EVERY", 1)
    crossed = crossing(TrainLog, "step", first=3)
    assert train(tmp_path / "model.pth", iters=5).code == 0
    assert {"train/step.py", "data/images.py", "model/matcher.py", "train/log.py"} <= crossed.files
    assert len(crossed.files) <= TRAINING_FILES, sorted(crossed.files)


def test_a_batch_of_inference_crosses_few_files(
    retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path, crossing: Callable[..., Crossing]
) -> None:
    """From reading the images to their results in the file."""
    crossed = crossing(Predictor, "run", first=2)
    output = tmp_path / "detections.json"
    assert retinanet("infer", trained, **shapes.held_out, output=output, batch=2).code == 0
    assert crossed.calls > 2
    assert {"data/images.py", "predict/results.py", "ops/nms/__init__.py"} <= crossed.files
    assert len(crossed.files) <= INFERENCE_FILES, sorted(crossed.files)


def in_a_fresh_process(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_and_its_command_line_import_without_pytorch() -> None:
    in_a_fresh_process(
        "import sys, retinanet, retinanet.cli\n"
        "heavy = {'torch', 'torchvision', 'timm', 'numpy', 'PIL', 'hotcoco', 'triton'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )


def test_everything_imports_where_optional_packages_are_missing() -> None:
    modules = [
        ".".join(("retinanet", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "triton.py"
    ]
    assert dataset.__name__ in modules
    in_a_fresh_process(
        "import importlib, sys\n"
        "optional = ('triton', 'tensorboard', 'onnx', 'onnxruntime', 'onnxscript', 'nvidia.dali', 'tensorrt',\n"
        "            'tensorrt_rtx', 'modelopt', 'pycocotools')\n"
        "sys.modules.update(dict.fromkeys(optional))\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
    )
