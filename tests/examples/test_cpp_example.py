"""The C++ programs: detect is built against the installed PyTorch and finds what Python finds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import Shapes
from retinanet import load
from retinanet.data.images import read_image

SOURCES = Path(__file__).parents[2] / "examples" / "cpp"
NVINFER = next(Path("/usr").glob("**/NvInfer.h"), None)
CUDART = next(Path("/usr").glob("**/cuda_runtime_api.h"), None)


@pytest.fixture(scope="module")
def detect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program."""
    missing = [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    build = tmp_path_factory.mktemp("cpp")
    torch_folder = Path(torch.__file__).parent
    for command in (["cmake", "-S", SOURCES, "-B", build, f"-DTORCH={torch_folder}"], ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "detect"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, (96, 64), (150, 120), (50, 30), (64, 200)])
def test_detect_finds_what_python_finds(
    detect: Path, aoti_package: Path, shapes: Shapes, tmp_path: Path, size: tuple[int, int] | None
) -> None:
    """As it is, and (width, height) enlarged, shrunk, and shrunk more than usual to fit the canvas."""
    image = Image.fromarray(read_image(sorted(shapes.val_images.iterdir())[1]).permute(1, 2, 0).numpy())
    image = image.resize(size) if size else image
    image.save(tmp_path / "picture.ppm")
    done = run(detect, aoti_package, tmp_path / "picture.ppm")
    assert done.returncode == 0, done.stderr
    rows = np.array([line.split() for line in done.stdout.splitlines()], dtype=float)

    detector = load(aoti_package)
    found = detector(np.array(image))
    count = int(found.count)
    # Resizing rounds otherwise than PyTorch's; without it, all is equal.
    near = 1e-5 if image.size == (96, 64) else 0.01
    assert abs(len(rows) - count) <= (0 if near < 1e-4 else 2)
    count = min(count, len(rows), 20)
    assert count > 0
    np.testing.assert_allclose(rows[:count, 1], found.scores[0, :count], rtol=0, atol=near)
    if near < 1e-4:
        assert rows[:count, 0].tolist() == [detector.classes.ids[label] for label in found.labels[0, :count]]
        np.testing.assert_allclose(rows[:count, 2:], found.boxes[0, :count], rtol=0, atol=2e-3)
    else:
        best = np.abs(rows[:, 2:] - found.boxes[0, 0].numpy()).max(axis=1).min()
        assert best < 0.02 * max(image.size)


@pytest.mark.slow
def test_detect_says_what_is_wrong(detect: Path, aoti_package: Path, tmp_path: Path) -> None:
    (tmp_path / "text.ppm").write_text("no picture")
    (tmp_path / "cut.ppm").write_bytes(b"P6 # a comment\n64 64\n255\n" + bytes(100))
    assert run(detect).returncode == 2
    for name, words in (("text.ppm", "no binary PPM"), ("cut.ppm", "truncated"), ("none.ppm", "no binary PPM")):
        done = run(detect, aoti_package, tmp_path / name)
        assert done.returncode == 1
        assert words in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(NVINFER is None or CUDART is None, reason="needs the headers of TensorRT and CUDA")
def test_the_tensorrt_program_compiles() -> None:
    assert NVINFER is not None
    assert CUDART is not None
    done = run(
        "g++", "-std=c++20", "-fsyntax-only", f"-I{NVINFER.parent}", f"-I{CUDART.parent}", SOURCES / "tensorrt.cpp"
    )
    assert done.returncode == 0, done.stderr
