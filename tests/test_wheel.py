"""The wheel, not the checkout: built and installed into an environment of its own, it works without extras."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from command_line import SMALL, Shapes, words_of

CHECKOUT = Path(__file__).parents[1]
REQUIRED = {"cyclopts", "hotcoco", "numpy", "pillow", "rich", "timm", "torch", "torchcodec", "torchvision"}
NOT_REQUIRED = ("tensorboard", "onnx", "onnxruntime", "nvidia.dali", "tensorrt", "pycocotools", "pytest", "hypothesis")


def run(*words: object) -> str:
    """What a command prints, run with nothing of this environment's variables for Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        list(map(str, words)), env={**kept, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, for a build leaves files behind, which the next wheel would contain."""
    root = tmp_path_factory.mktemp("wheel")
    (root / "source").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, root / "source")
    shutil.copytree(
        CHECKOUT / "src", root / "source" / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", root, root / "source")
    (path,) = root.glob("retinanet-*-py3-none-any.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in an environment of its own; its dependencies are this environment's, which spares 5 GB."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, with_pip=True)
    run(root / "bin" / "pip", "install", "--quiet", "--no-deps", wheel)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(root)}))
    # A folder that a .pth file names comes after the environment's own, and .pth files in it (the checkout's, where
    # that is installed in place) are not followed. What is no dependency is made impossible to import.
    (packages / "dependencies.pth").write_text(
        f"{sysconfig.get_path('purelib')}\nimport sys; sys.modules.update(dict.fromkeys({NOT_REQUIRED}))\n"
    )
    return root


@pytest.mark.slow
def test_the_wheel_works_without_extras(environment: Path, shapes: Shapes, tmp_path: Path) -> None:
    script = "import retinanet, sys; print(retinanet.__file__, sys.modules['onnx'])"
    module, blocked = run(environment / "bin" / "python", "-c", script).split()
    assert Path(module).is_relative_to(environment)
    assert (Path(module).parent / "py.typed").exists()
    assert blocked == "None"

    command = environment / "bin" / "retinanet"
    model, output = tmp_path / "model.pth", tmp_path / "detections.json"
    run(command, "train", model, *words_of({**shapes.training, **SMALL, "iters": 2}))
    options = {**shapes.held_out, "output": output, "draw": tmp_path / "drawn", "threshold": 0.001}
    assert "Average Precision" in run(command, "infer", model, *words_of(options))
    assert json.loads(output.read_text())
    assert len(list((tmp_path / "drawn").iterdir())) == 7
    run(command, "report", model, *words_of({**shapes.held_out, "output": tmp_path / "report.html"}))
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_the_wheel_requires_what_it_imports(environment: Path) -> None:
    script = "from importlib.metadata import requires; print(*(r for r in requires('retinanet') if 'extra' not in r))"
    found = run(environment / "bin" / "python", "-c", script).split()
    assert {requirement.partition(">=")[0] for requirement in found} == REQUIRED
