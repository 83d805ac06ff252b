"""Runs a checkpoint with PyTorch, on a CPU or a GPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from retinanet.config import PostprocessConfig, Precision
from retinanet.device import autocast, choose_device, choose_precision, device_context, tune
from retinanet.model.checkpoint import build_network, load_checkpoint
from retinanet.model.network import RetinaNet
from retinanet.predict.detector import Detector
from retinanet.types import Detections


class TorchRuntime:
    """See `Runtime`."""

    def __init__(
        self,
        network: RetinaNet,
        *,
        postprocess: PostprocessConfig,
        device: torch.device,
        precision: Precision | None = None,
    ) -> None:
        self.classes = network.record.classes
        self.resize = network.record.resize
        self.max_size = network.record.max_size
        self.canvas: tuple[int, int] | None = None
        self.batch: tuple[int, int] | None = None
        self.device = device
        self.on_device = device_context(device)
        self.autocast = autocast(device, choose_precision(precision, device, on_gpu="fp16"))
        self.detector = Detector(network, postprocess).to(device).to(memory_format=torch.channels_last).eval()

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        postprocess: PostprocessConfig,
        device: str | None = None,
        precision: Precision | None = None,
    ) -> TorchRuntime:
        """Load a checkpoint of `retinanet train`.

        Raises:
            ModelError: the file is missing, damaged or not ours.
            UsageError: there is no such device.
        """
        chosen = choose_device(device)
        tune(chosen)
        return cls(build_network(load_checkpoint(path)), postprocess=postprocess, device=chosen, precision=precision)

    @torch.inference_mode()
    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Detections on the canvas."""
        with self.on_device, self.autocast:
            return self.detector(images, image_sizes)  # type: ignore[no-any-return]
