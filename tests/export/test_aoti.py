"""One .pt2 package is the whole detector, compiled: the checkpoint's detections, without our code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from same_detections import assert_same_detections, canvases
from torch import Tensor, nn
from torch._inductor.exc import CppCompileError
from torch.export import Dim

from command_line import SMALL, Command, Shapes
from retinanet.config import ExportConfig, PostprocessConfig
from retinanet.data.images import read_image
from retinanet.export.compare import Differences
from retinanet.export.run import run_export
from retinanet.export.tolerance import TOLERANCES
from retinanet.model.checkpoint import build_network, load_checkpoint
from retinanet.model.fusion import fold_batch_norms, joined, layers
from retinanet.model.network import RetinaNet
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.aoti import AotiRuntime
from retinanet.predict.runtimes.artifact import read_sidecar
from retinanet.types import Detections

CANVAS = (64, 96)


def detector_of(checkpoint: Path) -> Detector:
    return Detector(build_network(load_checkpoint(checkpoint)), PostprocessConfig()).eval()


def pictures_of(shapes: Shapes) -> list[Tensor]:
    """Some fill the canvas, others don't."""
    pictures = [read_image(path) for path in sorted(shapes.val_images.iterdir())]
    return [*pictures[1::2], *pictures[::2], pictures[1][:, :40, :71]]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_detections_are_the_checkpoints(aoti_package: Path, trained: Path, shapes: Shapes, count: int) -> None:
    runtime, detector, pictures = AotiRuntime.from_file(aoti_package, None), detector_of(trained), pictures_of(shapes)
    for start in range(0, len(pictures) - count + 1, count):
        assert_same_detections(runtime, detector, *canvases(pictures[start : start + count], CANVAS))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["ResNet18FPN", "tf_efficientnet_lite0", ("test_resnet", "test_efficientnet")])
def test_other_backbones_and_an_ensemble(
    train: Command, shapes: Shapes, tmp_path: Path, backbone: str | tuple[str, ...]
) -> None:
    """Hardly trained, they score many boxes alike to the last digit, so these may change places."""
    model, package = tmp_path / "model.pth", tmp_path / "model.pt2"
    assert train(model, **{**SMALL, "backbone": backbone}, iters=60, lr=0.003).code == 0
    run_export(model, package, ExportConfig(batch=(2, 2, 2), device="cpu"), PostprocessConfig())
    runtime, detector = AotiRuntime.from_file(package, None), detector_of(model)
    differences = Differences(TOLERANCES["fp32"], PostprocessConfig().threshold)
    pictures = pictures_of(shapes)
    for start in range(0, len(pictures) - 1, 2):
        inputs = canvases(pictures[start : start + 2], CANVAS)
        with torch.inference_mode():
            expected, found = detector(*inputs), runtime(*inputs)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
        for row in (0, 1):
            differences.add(*(Detections(*(column[row : row + 1] for column in both)) for both in (expected, found)))
    assert differences.detections > 100
    assert differences.unmatched == 0


@pytest.mark.slow
def test_the_batch_stays_free_after_an_export_of_a_constant_one(trained: Path, tmp_path: Path) -> None:
    for batch in ((2, 2, 2), (1, 2, 4)):
        run_export(trained, tmp_path / "model.pt2", ExportConfig(batch=batch, device="cpu"), PostprocessConfig())
    runtime = AotiRuntime.from_file(tmp_path / "model.pt2", None)
    for count in (1, 3, 4):
        images, sizes = torch.zeros(count, 3, *CANVAS, dtype=torch.uint8), torch.tensor([CANVAS] * count)
        assert len(runtime(images, sizes).scores) == count


@pytest.mark.slow
def test_blank_slots_detect_nothing(aoti_package: Path) -> None:
    images, sizes = torch.full((2, 3, *CANVAS), 200, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.int64)
    assert AotiRuntime.from_file(aoti_package, None)(images, sizes).boxes.abs().sum() == 0


@pytest.mark.slow
def test_the_command_exports_half_precision(retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path) -> None:
    package = tmp_path / "half.pt2"
    done = retinanet("export", trained, package, precision="fp16", batch=(1, 1, 1), device="cpu")
    assert done.code == 0, done.err
    assert re.search(r"fp16.*\n.*\[1, 3, 64, 96\]", done.out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.pt2", "half.pt2.json"]
    picture = [read_image(next(shapes.val_images.iterdir()))]
    found = AotiRuntime.from_file(package, None)(*canvases(picture, CANVAS))
    with torch.inference_mode():
        expected = detector_of(trained)(*canvases(picture, CANVAS))
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=0.01)
    assert not torch.equal(found.scores, expected.scores)  # it did compute in half precision


@pytest.mark.slow
def test_the_record_travels_in_the_package_and_beside_it(aoti_package: Path, trained: Path) -> None:
    record = AotiRuntime.read_record(aoti_package)
    assert record == read_sidecar(aoti_package)
    assert record.classes == load_checkpoint(trained).record.classes
    assert (record.canvas, record.batch, record.precision) == (CANVAS, (1, 2, 4), "fp32")
    assert (record.device, record.compute_capabilities) == ("cpu", ())


@pytest.mark.slow
def test_it_runs_where_our_code_is_not(aoti_package: Path, trained: Path, shapes: Shapes, tmp_path: Path) -> None:
    """In a process that imports nothing but PyTorch, which finds the record too."""
    inputs = canvases([read_image(path) for path in sorted(shapes.val_images.iterdir())[:2]], CANVAS)
    with torch.inference_mode():
        torch.save((inputs, detector_of(trained)(*inputs)[:3]), tmp_path / "case.pt")
    script = """
import json, sys, torch
package = torch._inductor.aoti_load_package(sys.argv[1])
inputs, expected = torch.load(sys.argv[2])
for result, other in zip(package(*inputs), expected, strict=True):
    torch.testing.assert_close(result, other, rtol=0, atol=1e-3)
assert json.loads(package.get_metadata()["retinanet"])["classes"]["ids"] == [3, 17, 44]
assert not {name.split(".")[0] for name in sys.modules} & {"retinanet", "torchvision", "timm"}
"""
    subprocess.run([sys.executable, "-c", script, aoti_package, tmp_path / "case.pt"], check=True, cwd=tmp_path)


class Heads(nn.Module):
    """What a network's heads say, as a package can hold it."""

    def __init__(self, network: RetinaNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(images, image_sizes)
        return (*outputs.logits, *outputs.deltas)


def play_cudnn(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, *geometry: Any) -> Tensor:
    """Its joined convolutions in plain PyTorch; of weights that are channels-last, whatever `x` is."""
    result = nn.functional.conv2d(x, weight, bias, *geometry)
    return (result if residual is None else result + residual).relu().contiguous(memory_format=torch.channels_last)


def call_cudnn(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, stride: Any, padding: Any, dilation: Any
) -> Tensor:
    """What `conv_relu` does on a GPU."""
    if residual is None:
        return torch.ops.aten.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, 1)
    return torch.ops.aten.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, stride, padding, dilation, 1)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [{}, {0: Dim("batch", min=1, max=4)}])
def test_joined_convolutions_in_a_package(
    trained: Path, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: dict[int, Any]
) -> None:
    """Compiled code must expect cuDNN's layouts; without a GPU plain PyTorch plays it."""
    monkeypatch.setattr(layers, "conv_relu", call_cudnn)
    plain = Heads(build_network(load_checkpoint(trained))).eval()
    network = Heads(joined(fold_batch_norms(build_network(load_checkpoint(trained)))))
    network = network.to(memory_format=torch.channels_last).eval()
    with torch.library._scoped_library("aten", "IMPL") as library, torch.no_grad():
        library.impl("cudnn_convolution_relu", lambda x, w, bias, *rest: play_cudnn(x, w, bias, None, *rest), "CPU")
        library.impl(
            "cudnn_convolution_add_relu", lambda x, w, z, alpha, bias, *rest: play_cudnn(x, w, bias, z, *rest), "CPU"
        )
        program = torch.export.export(network, canvases(pictures_of(shapes)[:2], CANVAS), dynamic_shapes=(batch, batch))
        torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "heads.pt2"))
        package = torch._C._aoti.AOTIModelPackageLoader(str(tmp_path / "heads.pt2"), "model", False, 1, -1)
        for count in (1, 2, 4) if batch else (2,):
            inputs = canvases(pictures_of(shapes)[:count], CANVAS)
            for expected, found in zip(plain(*inputs), package.boxed_run(list(inputs)), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("batch", [(2, 2, 2), (1, 2, 4)])
def test_a_package_for_a_gpu(
    train: Command, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: tuple[int, int, int]
) -> None:
    """Its convolutions are joined, and it says the same again and again: the third time, replayed by a CUDA graph."""
    model, package, programs = tmp_path / "model.pth", tmp_path / "model.pt2", []
    assert train(model, **{**SMALL, "backbone": "ResNet18FPN"}, iters=60, lr=0.003).code == 0
    compile_and_package = torch._inductor.aoti_compile_and_package
    monkeypatch.setattr(
        torch._inductor,
        "aoti_compile_and_package",
        lambda program, **options: (programs.append(program), compile_and_package(program, **options)),
    )
    run_export(model, package, ExportConfig(batch=batch, device="cuda", precision="fp16"), PostprocessConfig())
    joined_calls = [node for node in programs[0].graph.nodes if str(node.target).startswith("aten.cudnn_convolution")]
    assert len(joined_calls) == 17 + 4 * 2 * 5  # the heads' on each of five levels
    runtime = AotiRuntime.from_file(package, "cuda")
    detector = detector_of(model).cuda()
    for start in (0, 1, 2):
        inputs = [tensor.cuda() for tensor in canvases(pictures_of(shapes)[start : start + 2], CANVAS)]
        with torch.inference_mode():
            expected = detector(*inputs)
        torch.testing.assert_close(runtime(*inputs).scores, expected.scores, rtol=0, atol=0.01)


def test_no_compiler_gets_a_sentence(
    retinanet: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    done = retinanet("export", trained, tmp_path / "model.pt2", device="cpu")
    assert done.code == 2
    assert "install g++" in done.sentence


def test_what_does_not_compile_gets_a_sentence(
    retinanet: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise CppCompileError(["g++", "kernel.cpp"], "In file kernel.cpp:\nkernel.cpp:3:1: error: no room on Mars\n")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    done = retinanet("export", trained, tmp_path / "model.pt2", device="cpu")
    assert done.code == 5
    assert "no room on Mars" in done.sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_static_cpp_library_gets_a_sentence(trained: Path, tmp_path: Path) -> None:
    """As where there is no shared one: such a package crashes the process that loads it."""
    compiler, out = tmp_path / "static-g++", tmp_path / "out"
    static = 'case " $* " in *" -shared "*) set -- "$@" -static-libstdc++ ;; esac'
    compiler.write_text(f'#!/bin/sh\n{static}\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    out.mkdir()
    # A process of its own: PyTorch reads CXX when it is imported.
    environment = {**os.environ, "CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "retinanet.cli", "export", trained, out / "model.pt2", "--device", "cpu"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 5
    assert "linked a C++ library of its own into the package" in done.stderr
    assert not list(out.iterdir())
