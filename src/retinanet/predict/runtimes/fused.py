"""Runs a checkpoint on a GPU as fast as it goes without compiling: fused, in one precision, as CUDA graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from retinanet.config import PostprocessConfig, Precision
from retinanet.device import AUTOCAST_DTYPE, autocast, choose_precision
from retinanet.model.fusion import fused
from retinanet.model.network import RetinaNet
from retinanet.predict.runtimes.cuda_graphs import CudaGraphs
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.types import Detections


class FusedRuntime(TorchRuntime):
    """See `Runtime`. Uses the network up."""

    def __init__(
        self,
        network: RetinaNet,
        *,
        postprocess: PostprocessConfig,
        device: torch.device,
        precision: Precision | None = None,
    ) -> None:
        dtype = AUTOCAST_DTYPE[choose_precision(precision, device, on_gpu="fp16")]
        super().__init__(fused(network).to(dtype), postprocess=postprocess, device=device)
        self.autocast = autocast(device, "fp32")  # off: the weights have the type already
        self.run = CudaGraphs(self.detector) if device.type == "cuda" else self.detector

    @torch.inference_mode()
    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Detections on the canvas."""
        with self.on_device:
            return self.run(images, image_sizes)
