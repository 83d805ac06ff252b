"""Which runtime opens which file, by its ending."""

from __future__ import annotations

import importlib
from pathlib import Path

from retinanet.config import PostprocessConfig, PredictConfig
from retinanet.device import choose_device
from retinanet.errors import ModelError, UsageError
from retinanet.model.checkpoint import load_checkpoint
from retinanet.predict.runtimes.base import ArtifactRuntime, Runtime
from retinanet.predict.runtimes.fused import FusedRuntime
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.types import ClassMap

_ARTIFACTS = {
    ".onnx": ("onnx", "OnnxRuntime"),
    ".pt2": ("aoti", "AotiRuntime"),
    ".plan": ("tensorrt", "TensorRTRuntime"),
    ".engine": ("tensorrt", "TensorRTRuntime"),
}
"""Ending → the file beside this one and its class."""


def artifact_runtime(path: Path) -> type[ArtifactRuntime] | None:
    """The class that opens files of this ending; None for a checkpoint's."""
    if path.suffix.lower() not in _ARTIFACTS:
        return None
    module, name = _ARTIFACTS[path.suffix.lower()]
    # Imported here, for each brings its own optional package.
    runtime: type[ArtifactRuntime] = getattr(importlib.import_module(f"retinanet.predict.runtimes.{module}"), name)
    return runtime


def read_classes(path: Path) -> ClassMap:
    """What the labels of the model at `path` mean, without making it ready to run. Raises `ModelError` as `load`."""
    kind = artifact_runtime(path)
    return load_checkpoint(path).record.classes if kind is None else kind.read_record(path).classes


def runs_on_gpus(path: Path) -> bool:
    """Whether the model at `path` is for GPUs where there are some; an ONNX file is for whatever its runtime finds."""
    kind = artifact_runtime(path)
    return kind is None or (path.suffix.lower() != ".onnx" and kind.read_record(path).device != "cpu")


def open_runtime(path: Path, config: PredictConfig, postprocess: PostprocessConfig | None) -> Runtime:
    """The model at `path`, ready to run. See `load`."""
    kind = artifact_runtime(path)
    if kind is None:
        checkpoint_runtime = FusedRuntime if choose_device(config.device).type == "cuda" else TorchRuntime
        return checkpoint_runtime.from_file(
            path, postprocess=postprocess or PostprocessConfig(), device=config.device, precision=config.precision
        )
    if not path.is_file():
        raise ModelError(f"There is no file {path}; check its name, or make it with `retinanet export`.")
    runtime = kind.from_file(path, config.device)
    fixed = runtime.record.postprocess
    if postprocess not in (None, fixed):
        raise UsageError(
            f"{path} was exported with --threshold {fixed.threshold} --nms {fixed.nms} --top-n {fixed.top_n} "
            f"--detections {fixed.detections}, which are part of it; leave these options out, or export it again."
        )
    if config.precision not in (None, runtime.record.precision):
        raise UsageError(
            f"{path} computes in {runtime.record.precision}, not in {config.precision}; leave --precision out, or "
            "export the model again."
        )
    return runtime
