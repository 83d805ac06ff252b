"""The whole detector compiled ahead of time by AOTInductor: a package that runs in Python and C++ without our code."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._inductor.exc import CppCompileError, InductorError
from torch.export import Dim, ExportedProgram

from retinanet.errors import ExportError, UsageError
from retinanet.export.describe import Built
from retinanet.export.quantize import Ranges
from retinanet.model.fusion import joined
from retinanet.ops.backend import kernels_available
from retinanet.ops.nms import loop
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.artifact import RECORD_KEY, ArtifactRecord


def build(
    detector: Detector, record: ArtifactRecord, out: Path, device: torch.device, ranges: Ranges | None = None
) -> Built:
    """Write `out`, compiled for `device`: for GPUs of its kind, or for processors like this one.

    Inputs are images uint8 `[N, 3, H, W]` and image_sizes int64 `[N, 2]`, both contiguous: their strides are compiled
    in, and nothing checks them. Outputs are scores float32 `[N, D]`, boxes float32 `[N, D, 4]` on the canvas and
    classes int64 `[N, D]` (class indices), padded as `Detections` are. N is within the record's batch, and a constant
    where that is one number. With fp16, the network alone is in half precision.

    Raises:
        UsageError: there is no C++ compiler.
        ExportError: PyTorch cannot compile the network, or the compiler makes what PyTorch cannot load.
    """
    if not (os.environ.get("CXX") or any(map(shutil.which, ("g++", "clang++")))):
        raise UsageError(
            "AOTInductor compiles a .pt2 file with a C++ compiler, but there is none here; install g++ or set CXX."
        )
    join = record.precision == "fp16" and device.type == "cuda"
    if join:
        joined(detector.network)
    if record.precision == "fp16":
        detector.network.half()
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    record = replace(
        record,
        device=device.type,
        compute_capabilities=(f"{capability[0]}.{capability[1]}",) if capability else (),
    )
    model = _Outputs(detector).to(device).to(memory_format=torch.channels_last).eval()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it wonders where the GPU is
    options = {"aot_inductor.metadata": {RECORD_KEY: record.to_json()}}
    try:
        with torch.no_grad():
            if join:
                for count in {record.batch[0], record.batch[2]}:  # which cuDNN joins shows when they run
                    model(*_inputs(count, record, device))
            program = _export(model, record, device)
            torch._inductor.aoti_compile_and_package(program, package_path=str(out), inductor_configs=options)
    except (InductorError, CppCompileError) as error:
        raise ExportError(
            f"AOTInductor cannot compile {record.source}: {_reason(error)}; upgrade PyTorch, or export to ONNX."
        ) from error
    _require_shared_library(out)
    return Built(record)


class _Outputs(nn.Module):
    """The detector with outputs that a package can hold."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, boxes, labels, _ = self.detector(images, image_sizes)
        return scores, boxes, labels


def _export(model: _Outputs, record: ArtifactRecord, device: torch.device) -> ExportedProgram:
    """The detector as one graph, with our operators in it as what runs on `device`."""
    fewest, usual, most = record.batch
    # An example of 1 would make the batch a constant of the graph.
    count = fewest if fewest == most else max(usual, 2)
    batch = {} if fewest == most else {0: Dim("batch", min=fewest, max=most)}
    # What the compiler learned from an earlier export of a constant batch would make this one constant too.
    torch.compiler.reset()
    program = torch.export.export(model, _inputs(count, record, device), dynamic_shapes=(batch, batch))
    if not (device.type == "cuda" and kernels_available()):
        program = program.run_decompositions({torch.ops.retinanet.nms.default: loop.nms})
    return program


def _inputs(count: int, record: ArtifactRecord, device: torch.device) -> tuple[Tensor, Tensor]:
    """Black pictures that fill the canvas, and their sizes."""
    images = torch.zeros(count, 3, *record.canvas, dtype=torch.uint8, device=device)
    return images, torch.tensor([record.canvas] * count, device=device)


def _require_shared_library(package: Path) -> None:
    """Two C++ libraries in one process end in a crash when the package is loaded, which nobody could explain."""
    with zipfile.ZipFile(package) as archive:
        codes = [archive.read(name) for name in archive.namelist() if name.endswith(".so")]
    if not all(b"libstdc++.so" in code or b"libc++.so" in code for code in codes):
        raise ExportError(
            "The C++ compiler linked a C++ library of its own into the package, on which PyTorch would crash: there is "
            "no libstdc++.so here, or CXX asks for a static one; install it (libstdc++-13-dev for g++ 13 on Ubuntu)."
        )


def _reason(error: Exception) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "error: " in line.lower()), lines[0] if lines else type(error).__name__)
