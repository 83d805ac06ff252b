"""The C++ programs: detect is built against PyTorch and finds what Python finds, the other against a stand-in."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import Shapes
from retinanet import load
from retinanet.config import PostprocessConfig
from retinanet.data.images import read_image
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.plan_name import plan_name
from retinanet.preprocess import fit_to_canvas
from retinanet.types import ClassMap

SOURCES = Path(__file__).parents[2] / "examples" / "cpp"
STAND_IN = Path(__file__).parent / "fake_tensorrt"
NVINFER = next(Path("/usr").glob("**/NvInferRuntime.h"), None)
CUDART = next(
    (
        path
        for root in ("/usr", Path(torch.__file__).parents[1] / "nvidia")
        for path in Path(root).rglob("cuda_runtime_api.h")
    ),
    None,
)


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
    compile_tensorrt("-fsyntax-only", f"-I{NVINFER.parent}", f"-I{CUDART.parent}")


def compile_tensorrt(*options: object) -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    done = run("g++", "-std=c++20", "-Wall", "-Werror", *options, SOURCES / "tensorrt.cpp")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def detect_tensorrt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program for plans, built against a stand-in for TensorRT and CUDA that works on this machine's memory."""
    program = tmp_path_factory.mktemp("cpp") / "detect_tensorrt"
    compile_tensorrt("-fsanitize=address,undefined", f"-I{STAND_IN}", "-o", program)
    return program


RECORD = ArtifactRecord(
    format="tensorrt",
    classes=ClassMap((3, 17, 44), ("disc", 'a "canvas":[1,2] of sorts', "triangle")),
    canvas=(64, 96),
    batch=(2, 2, 4),
    resize=64,
    max_size=96,
    postprocess=PostprocessConfig(detections=3),
    precision="fp16",
    source="model.pth",
)
ROWS = (
    np.array([0.75, 0.5, 0], np.float32),
    np.array([[1, 2, 30, 40], [8, 16, 24, 32], [0, 0, 0, 0]], np.float32),
    np.array([2, 0, -1]),
)


def plan_of(folder: Path, record: ArtifactRecord = RECORD) -> Path:
    """What the stand-in takes for a plan that finds `ROWS` in every picture."""
    path = folder / "engine.plan"
    path.write_bytes(plan_name(record).encode() + b"\n" + b"".join(values.tobytes() for values in ROWS))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 64), (48, 32), (60, 60)])
def test_the_tensorrt_program_places_pictures_and_prints_boxes(
    detect_tensorrt: Path, shapes: Shapes, tmp_path: Path, size: tuple[int, int]
) -> None:
    """As (width, height): one that fits as it is, one that is enlarged, one that does not fill the canvas."""
    picture = read_image(sorted(shapes.val_images.iterdir())[1]).permute(1, 2, 0).numpy()
    image = Image.fromarray(picture).resize(size)
    image.save(tmp_path / "picture.ppm")
    done = run_in(tmp_path, detect_tensorrt, plan_of(tmp_path), "picture.ppm")
    assert done.returncode == 0, done.stderr

    placed = fit_to_canvas(torch.from_numpy(np.array(image)).permute(2, 0, 1), 64, 96, (64, 96))
    height, width = placed.size
    given = (tmp_path / "inputs.bin").read_bytes()
    images = np.frombuffer(given[: 2 * 3 * 64 * 96], np.uint8).reshape(2, 3, 64, 96)
    assert np.frombuffer(given[images.size :], np.int64).tolist() == [height, width, 0, 0]
    np.testing.assert_allclose(images[0], placed.image, atol=2)  # resizing rounds otherwise
    assert not images[0, :, height:].any()
    assert not images[0, :, :, width:].any()
    assert not images[1].any()

    rows = np.array([line.split() for line in done.stdout.splitlines()], dtype=float)
    assert rows[:, 0].tolist() == [44, 3]
    assert rows[:, 1].tolist() == [0.75, 0.5]
    np.testing.assert_allclose(rows[:, 2:], ROWS[1][:2] * (size[0] / width), atol=2e-3)


@pytest.mark.slow
def test_the_tensorrt_program_says_what_is_wrong(detect_tensorrt: Path, shapes: Shapes, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "picture.ppm")
    assert run_in(tmp_path, detect_tensorrt).returncode == 2
    ids = tuple(range(1203))
    many = replace(RECORD, classes=ClassMap(ids, tuple(map(str, ids))))
    (tmp_path / "cut.plan").write_bytes(b"")
    (tmp_path / "theirs.plan").write_bytes(b"Unnamed Network 0\n" + bytes(99))
    for plan, words in (
        (tmp_path / "none.plan", "cannot read the plan"),
        (tmp_path / "cut.plan", "cannot load the plan"),
        (tmp_path / "theirs.plan", "the record has no"),
        (plan_of(tmp_path, many), "too many classes"),
    ):
        done = run_in(tmp_path, detect_tensorrt, plan, "picture.ppm")
        assert done.returncode == 1, done.stderr
        assert words in done.stderr


def run_in(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, cwd=folder)
