"""A model repository of Triton Inference Server: the artifact, its configuration and its labels.

    DIR/<name>/config.pbtxt · labels.txt · 1/model.onnx or 1/model.plan

The format is that of https://docs.nvidia.com/deeplearning/triton-inference-server (model_configuration).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

from retinanet.errors import UsageError
from retinanet.files import require_writable
from retinanet.predict.runtimes.artifact import RECORD_KEY, ArtifactRecord
from retinanet.predict.runtimes.tensorrt_library import libraries_for

_PLATFORMS = {"onnx": ("onnxruntime_onnx", "model.onnx"), "tensorrt": ("tensorrt_plan", "model.plan")}
"""Format → Triton's name of what runs it, and the file that it looks for."""


def require_repository(folder: Path, out: Path, record: ArtifactRecord, device: torch.device) -> None:
    """Check, before minutes of work, that `write_repository` will be able to work.

    Raises:
        UsageError: Triton does not run the format, the model is there already, or the folder cannot be written.
    """
    foreign = f"{out.suffix} files" if record.format not in _PLATFORMS else None
    if record.format == "tensorrt" and libraries_for(device)[0].portable:
        foreign = "plans of TensorRT-RTX, which is what builds them here"
    if foreign:
        raise UsageError(f"--triton takes .onnx files and plans of TensorRT, not {foreign}; export a .onnx file.")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--triton takes a folder, but {folder} is a file; name another.")
    if (folder / out.stem).exists():
        raise UsageError(f"--triton {folder} has a model {out.stem} already; remove it, or name OUT otherwise.")
    require_writable(folder / out.stem if folder.is_dir() else folder)


def write_repository(folder: Path, out: Path, record: ArtifactRecord) -> Path:
    """Copy the artifact `out` into the repository `folder`, under its name without ending; returns the model's folder.

    The model's folder appears whole or not at all. Raises `UsageError` when it cannot be written.
    """
    target = folder / out.stem
    try:
        with tempfile.TemporaryDirectory(dir=folder if folder.is_dir() else folder.parent, prefix=".") as parent:
            model = Path(parent) / out.stem
            (model / "1").mkdir(parents=True)
            shutil.copyfile(out, model / "1" / _PLATFORMS[record.format][1])
            (model / "labels.txt").write_text(_labels(record), encoding="utf-8")
            (model / "config.pbtxt").write_text(configuration(out.stem, record), encoding="ascii")
            folder.mkdir(exist_ok=True)
            model.rename(target)
    except OSError as error:
        raise UsageError(f"--triton {folder} cannot be written ({error.strerror}); name another folder.") from error
    return target


def configuration(name: str, record: ArtifactRecord) -> str:
    """The text of `config.pbtxt`.

    Triton forms batches itself where the artifact takes 1 to some number of images; otherwise a request is a batch.
    """
    fewest, _, most = record.batch
    batching = fewest == 1 < most
    batch = [] if batching else [fewest if fewest == most else -1]
    height, width = record.canvas
    rows = record.postprocess.detections
    lines = [f"name: {_quoted(name)}", f'platform: "{_PLATFORMS[record.format][0]}"']
    lines.append(f"max_batch_size: {most if batching else 0}")
    lines += [
        _tensor("input", "images", "TYPE_UINT8", [*batch, 3, height, width]),
        _tensor("input", "image_sizes", "TYPE_INT64", [*batch, 2]),
        _tensor("output", "scores", "TYPE_FP32", [*batch, rows]),
        _tensor("output", "boxes", "TYPE_FP32", [*batch, rows, 4]),
        _tensor("output", "classes", "TYPE_INT64", [*batch, rows], ' label_filename: "labels.txt"'),
    ]
    if batching:
        lines.append("dynamic_batching { }")
    lines.append(f"parameters {{ key: {_quoted(RECORD_KEY)} value {{ string_value: {_quoted(record.to_json())} }} }}")
    return "\n".join(lines) + "\n"


def _tensor(kind: str, name: str, dtype: str, dims: list[int], more: str = "") -> str:
    return f'{kind} {{ name: "{name}" data_type: {dtype} dims: {dims}{more} }}'


def _labels(record: ArtifactRecord) -> str:
    """Names by class index, one a line."""
    return "".join(" ".join(name.split()) + "\n" for name in record.classes.names)


def _quoted(text: str) -> str:
    """As protobuf's text format has strings: all but plain ASCII as octal bytes."""
    plain = (chr(byte) if 32 <= byte < 127 and chr(byte) not in "\"\\'" else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(plain)}"'
