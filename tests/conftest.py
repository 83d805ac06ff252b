"""What the tests share: a small made-up data set, a model trained on it for a moment, and the command line."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import SMALL, Command, Done, Shapes, words_of
from retinanet.cli import main
from retinanet.config import ExportConfig, PostprocessConfig
from retinanet.data.synthetic import make_dataset
from retinanet.export.run import run_export

torch.set_num_threads(1)  # pytest-xdist fills the cores


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    """Read only: a test that damages files takes `own_shapes`."""
    root = tmp_path_factory.mktemp("shapes")
    make_dataset(root / "train", 18, 64, seed=0, aspects=(1.0, 1.5))
    make_dataset(root / "val", 7, 64, seed=0, aspects=(1.0, 1.5))
    return Shapes.at(root)


@pytest.fixture
def own_shapes(shapes: Shapes, tmp_path: Path) -> Shapes:
    """A copy that a test may damage."""
    return Shapes.at(shutil.copytree(shapes.images.parent, tmp_path / "shapes"))


@pytest.fixture
def retinanet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, as the installed script does."""

    def run(command: str, model: Path, *more: Path, **options: Any) -> Done:
        capsys.readouterr()
        code = run_main(monkeypatch, command, model, options, *more)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def train(retinanet: Command, shapes: Shapes) -> Command:
    """`retinanet train MODEL` on the made-up data, with a network and sizes that take milliseconds a step."""

    def run(model: Path, data: Shapes = shapes, **options: Any) -> Done:
        return retinanet("train", model, **{**data.training, **SMALL, **options})

    return run


@pytest.fixture(scope="session")
def trained(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has learned enough for scores above the threshold. Read only."""
    path = tmp_path_factory.mktemp("trained") / "model.pth"
    recipe = {"iters": 100, "optimizer": "adamw", "lr": 0.003, "schedule": "cosine"}
    with pytest.MonkeyPatch.context() as patch:
        assert run_main(patch, "train", path, {**shapes.training, **SMALL, **recipe}) == 0
    return path


@pytest.fixture(scope="session")
def onnx_model(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as ONNX, for batches of 2 to 4 on the canvas that it was trained for, 64 × 96. Read only."""
    out = tmp_path_factory.mktemp("exported") / "model.onnx"
    run_export(trained, out, ExportConfig(batch=(2, 3, 4), device="cpu"), PostprocessConfig())
    return out


@pytest.fixture(scope="session")
def aoti_package(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It compiled for this processor, for batches of 1 to 4 on 64 × 96; this takes most of a minute. Read only."""
    out = tmp_path_factory.mktemp("compiled") / "model.pt2"
    run_export(trained, out, ExportConfig(batch=(1, 2, 4), device="cpu"), PostprocessConfig())
    return out


def run_main(patch: pytest.MonkeyPatch, command: str, model: Path, options: dict[str, Any], *more: Path) -> int:
    patch.setattr(sys, "argv", ["retinanet", command, str(model), *map(str, more), *words_of(options)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cyclopts application invoked without tokens")
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0
