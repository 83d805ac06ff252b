"""Runs an ONNX file by ONNX Runtime, on a CPU or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retinanet import extras
from retinanet.device import choose_device
from retinanet.errors import ModelError, UsageError
from retinanet.predict.runtimes.artifact import RECORD_KEY, ArtifactRecord
from retinanet.predict.runtimes.base import ArtifactRuntime

_ELEMENT = {torch.uint8: "uint8", torch.int64: "int64", torch.float32: "float32"}


class OnnxRuntime(ArtifactRuntime):
    """See `Runtime`."""

    @staticmethod
    def read_record(path: Path) -> ArtifactRecord:
        """The record in the file's metadata."""
        onnx = extras.require("onnx", "export", "Reading an ONNX file")
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's own kinds of them
            raise ModelError(
                f"{path} is damaged, or no ONNX file ({type(error).__name__}); export it again."
            ) from error
        for entry in model.metadata_props:
            if entry.key == RECORD_KEY:
                return ArtifactRecord.from_json(entry.value, path)
        raise ModelError(
            f"{path} is an ONNX file that was not made here: it says neither its classes nor its canvas; "
            "use one that `retinanet export` wrote."
        )

    def _open(self, path: Path, device: str | None) -> torch.device:
        onnxruntime = extras.require("onnxruntime", "export", "Running an ONNX file")
        chosen = choose_device(device)
        on_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if chosen.type == "cuda" and not on_gpu:
            if device is not None:
                raise UsageError(
                    f"--device {device} needs ONNX Runtime for GPUs, but the one installed has only "
                    f"{', '.join(onnxruntime.get_available_providers())}: pip install onnxruntime-gpu."
                )
            chosen = torch.device("cpu")
        providers: list[Any] = ["CPUExecutionProvider"]
        if chosen.type == "cuda":
            # fp32 means it: TF32 would be too far from the checkpoint to tell whether the file is right.
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": chosen.index, "use_tf32": 0}))
        options = onnxruntime.SessionOptions()
        if self.record.quantised:
            # Its optimiser takes FP8 for integers, and adds biases rounded to numbers that fp16 does not hold.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # ONNX Runtime's own kinds of them
            reason = str(error).partition("\n")[0]
            raise ModelError(f"ONNX Runtime cannot open {path} ({reason}); export the model again.") from error
        return chosen

    def _run(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = (len(images), self.record.postprocess.detections)
        scores = torch.empty(rows, device=self.device)
        boxes = torch.empty((*rows, 4), device=self.device)
        classes = torch.empty(rows, dtype=torch.int64, device=self.device)
        binding = self._session.io_binding()
        inputs = {"images": images.contiguous(), "image_sizes": image_sizes.contiguous()}
        for name, tensor in inputs.items():
            binding.bind_input(*_place(name, tensor))
        for name, tensor in (("scores", scores), ("boxes", boxes), ("classes", classes)):
            binding.bind_output(*_place(name, tensor))
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # ONNX Runtime has a stream of its own
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return scores, boxes, classes


def _place(name: str, tensor: Tensor) -> tuple[Any, ...]:
    """What ONNX Runtime wants to know of a tensor's memory."""
    device = tensor.device
    return name, device.type, device.index or 0, _ELEMENT[tensor.dtype], tuple(tensor.shape), tensor.data_ptr()
