"""Runs a package of AOTInductor, on the kind of processor or GPU that it was compiled for."""

from __future__ import annotations

import json
import platform
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from retinanet.device import choose_device, device_context
from retinanet.errors import ModelError, UsageError
from retinanet.predict.runtimes.artifact import RECORD_KEY, ArtifactRecord
from retinanet.predict.runtimes.base import ArtifactRuntime
from retinanet.predict.runtimes.cuda_graphs import CudaGraphs
from retinanet.types import Detections


class AotiRuntime(ArtifactRuntime):
    """See `Runtime`."""

    @staticmethod
    def read_record(path: Path) -> ArtifactRecord:
        """The record in the package's metadata."""
        metadata = _metadata(path)
        if RECORD_KEY not in metadata:
            raise ModelError(
                f"{path} is a PyTorch archive that was not made here: it says neither its classes nor its canvas; "
                "use one that `retinanet export` wrote."
            )
        return ArtifactRecord.from_json(metadata[RECORD_KEY], path)

    def _open(self, path: Path, device: str | None) -> torch.device:
        made_for = self.record.device
        chosen = choose_device("cpu" if device is None and made_for == "cpu" else device)
        if chosen.type != made_for:
            if device is not None:
                raise UsageError(f"{path} was compiled for {made_for}, not for --device {device}; leave --device out.")
            raise ModelError(
                f"{path} was compiled for {made_for}, but this machine has none; export the model here again."
            )
        _require_fit(path, self.record, _metadata(path), chosen)
        try:
            # What C++ programs load packages with. `torch._inductor.aoti_load_package` does the same in ten times as
            # long: it imports the compiler first and asks the host's g++ what the processor can, a process at a time.
            # A CUDA graph cannot hold the locks with which a package lets several threads in.
            index, single_threaded = -1 if chosen.index is None else chosen.index, chosen.type == "cuda"
            self._package = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", single_threaded, 1, index)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ModelError(f"PyTorch cannot load {path} ({reason}); export the model again.") from error
        self._on_device = device_context(chosen)
        self._detect = CudaGraphs(super().__call__) if chosen.type == "cuda" else super().__call__
        return chosen

    @torch.inference_mode()
    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Detections on the canvas."""
        with self._on_device:
            return self._detect(images, image_sizes)

    def _run(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Strides are compiled in, and nothing checks them.
        scores, boxes, classes = self._package.boxed_run([images.contiguous(), image_sizes.contiguous()])
        return scores, boxes, classes


def _metadata(path: Path) -> dict[str, str]:
    """What the package says about itself; empty where it is no package of AOTInductor."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".wrapper_metadata.json")]
            if names and not any(name.endswith(".so") for name in archive.namelist()):
                raise ValueError("its compiled code is missing")  # PyTorch 2.11 would crash
            metadata: dict[str, str] = json.loads(archive.read(names[0])) if names else {}
            return metadata
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise ModelError(f"{path} is damaged, or no .pt2 package ({error}); export the model again.") from error


def _require_fit(path: Path, record: ArtifactRecord, metadata: dict[str, str], device: torch.device) -> None:
    """Raise `ModelError` where the compiled code cannot run: PyTorch would crash, or at best warn."""
    made_by, here = (
        f"PyTorch {'.'.join(version.split('.')[:2])}" for version in (record.versions["torch"], torch.__version__)
    )
    made_for, machine = metadata["AOTI_MACHINE"], platform.machine()
    checks = [(made_by, here, made_by == here), (made_for, machine, made_for == machine)]
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        # A GPU runs the code of earlier ones of its generation.
        fits = any(
            major == int(known) and minor >= int(least)
            for known, _, least in (capability.partition(".") for capability in record.compute_capabilities)
        )
        wanted = " or ".join(record.compute_capabilities)
        checks.append((f"compute capability {wanted}", f"compute capability {major}.{minor}", fits))
    else:
        vectors, known = metadata["AOTI_CPU_ISA"].partition(" ")[0], torch.backends.cpu.get_cpu_capability()
        checks.append((vectors, known, _vector_rank(vectors) <= _vector_rank(known)))
    for expected, found, fits in checks:
        if not fits:
            raise ModelError(f"{path} was compiled for {expected}, but here is {found}; export the model again here.")


def _vector_rank(name: str) -> int:
    """Place among the vector instructions of x86, each of which includes the former; 0 for others."""
    return {"AVX2": 1, "AVX512": 2}.get(name, 0)
