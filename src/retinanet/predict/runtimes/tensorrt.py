"""Runs a TensorRT plan on the kind of GPU that it was built for."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retinanet.device import choose_device
from retinanet.errors import ModelError, RetinaNetError, UsageError
from retinanet.predict.runtimes.artifact import ArtifactRecord, read_sidecar, sidecar
from retinanet.predict.runtimes.base import ArtifactRuntime
from retinanet.predict.runtimes.plan_name import record_of_name
from retinanet.predict.runtimes.tensorrt_library import Library, libraries_for, library_of


class TensorRTRuntime(ArtifactRuntime):
    """See `Runtime`. Not for several threads at once: one execution context, one stream, one set of outputs."""

    @staticmethod
    def read_record(path: Path) -> ArtifactRecord:
        """The record beside the plan or, where there is none, that inside it, which only a GPU can read."""
        if sidecar(path).exists():
            record = read_sidecar(path)
            if record.file_bytes not in (None, path.stat().st_size):
                raise ModelError(
                    f"{path} has {path.stat().st_size} bytes, but its record says {record.file_bytes}: it is damaged, "
                    "or the record is another plan's; copy both again."
                )
            return record
        device = choose_device(None)
        _require_gpu(path, device)
        return record_of_name(_open_by_any(path, device).name, path)

    def _open(self, path: Path, device: str | None) -> torch.device:
        chosen = choose_device(device)
        if device is not None and chosen.type != "cuda":
            raise UsageError(f"{path} is a TensorRT plan, which does not run on --device {device}; leave it out.")
        _require_gpu(path, chosen)
        library = library_of(self.record.versions)
        if library is None:
            raise ModelError(f"The record of {path} does not say which TensorRT built it; export the model again.")
        why = misfit(path, self.record, library, chosen)
        if why:
            raise ModelError(f"{path} cannot run here: {why}; export the model again here.")
        self._prepare(open_engine(path, library, chosen), library, chosen)
        return chosen

    def _prepare(self, engine: Any, library: Library, device: torch.device) -> None:
        with torch.cuda.device(device):
            self._engine, self._library = engine, library
            self._context = engine.create_execution_context()
            if self._context is None:
                raise RetinaNetError(
                    f"{library} cannot run the plan ({library.reason()}); free GPU memory, or lower --batch and "
                    "export the model again."
                )
            # On the default stream, TensorRT would wait for the GPU more often than it has to.
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        rows = (self.record.batch[2], self.record.postprocess.detections)
        self._outputs = {
            "scores": torch.empty(rows, device=device),
            "boxes": torch.empty((*rows, 4), device=device),
            "classes": torch.empty(rows, dtype=torch.int64, device=device),
        }
        for name, tensor in self._outputs.items():
            self._context.set_tensor_address(name, tensor.data_ptr())

    def _run(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = {"images": images.contiguous(), "image_sizes": image_sizes.contiguous()}
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            for name, tensor in inputs.items():
                fits = self._context.set_input_shape(name, tuple(tensor.shape))
                assert fits, f"{name} {tuple(tensor.shape)} does not fit the plan"
                self._context.set_tensor_address(name, tensor.data_ptr())
            self._library.logger.errors.clear()
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise RetinaNetError(f"{self._library} failed to run the plan ({self._library.reason()}).")
            # The buffers are written again by the next call.
            scores, boxes, classes = (tensor[: len(images)].clone() for tensor in self._outputs.values())
        current.wait_stream(self._stream)
        for tensor in (scores, boxes, classes):
            tensor.record_stream(current)
        return scores, boxes, classes


def open_engine(path: Path, library: Library, device: torch.device) -> Any:
    """TensorRT's engine of the plan at `path`, on the GPU `device`.

    Raises:
        ModelError: the plan is damaged, or was built by another version or for another GPU.
    """
    with torch.cuda.device(device):
        engine = library.start("Runtime").deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise ModelError(
            f"{_here(library, device)} cannot load {path} ({library.reason()}): it is damaged, or was built by another "
            "version or for another GPU; export the model again here."
        )
    return engine


def _open_by_any(path: Path, device: torch.device) -> Any:
    """The engine of a plan that nothing is known of."""
    *others, last = libraries_for(device)
    for library in others:
        with contextlib.suppress(ModelError):
            return open_engine(path, library, device)
    return open_engine(path, last, device)


def misfit(path: Path, record: ArtifactRecord, library: Library, device: torch.device) -> str | None:
    """Why the plan at `path` cannot run on `device`, in a clause; None where it can."""
    if device.type != "cuda":
        return "plans run on GPUs, and this is a CPU"
    major, minor = torch.cuda.get_device_capability(device)
    if library.portable:
        with torch.cuda.device(device), path.open("rb") as file:
            runtime = library.start("Runtime")
            validity, flaws = runtime.get_engine_validity(file.read(runtime.engine_header_size))
        known = library.module.EngineInvalidityDiagnostics.__members__
        reasons = [name for name, flaw in known.items() if int(flaws) & int(flaw.value)]
        fits = validity != library.module.EngineValidity.INVALID
    else:
        reasons = []
        fits = record.versions[library.key] == library.version and f"{major}.{minor}" in record.compute_capabilities
    if fits:
        return None
    return (
        f"it was built by {library.name} {record.versions[library.key]} for GPUs of compute capability "
        f"{', '.join(record.compute_capabilities)}, and this is {_here(library, device)}"
        + (f" ({', '.join(reasons)})" if reasons else "")
    )


def _here(library: Library, device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"{library} on {torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"


def _require_gpu(path: Path, device: torch.device) -> None:
    if device.type != "cuda":
        raise ModelError(
            f"{path} is a TensorRT plan, which runs on GPUs alone, but this machine has none; use the checkpoint, or "
            "export it to .onnx."
        )
