"""The whole detector as one module: network, decoding and suppression."""

from __future__ import annotations

from torch import Tensor, nn

from retinanet.config import PostprocessConfig
from retinanet.model.network import RetinaNet
from retinanet.ops.decode import decode
from retinanet.ops.nms import nms
from retinanet.types import Detections


class Detector(nn.Module):
    """Wraps a network for inference; exports and runtimes start from it."""

    def __init__(self, network: RetinaNet, postprocess: PostprocessConfig) -> None:
        super().__init__()
        self.network = network
        self.postprocess = postprocess

    def forward(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Detections on the canvas for images uint8 `[N, 3, H, W]` and image_sizes `[N, 2]` (height, width)."""
        return self.suppress(*self.candidates(images, image_sizes))

    def candidates(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores `[N, K]`, boxes `[N, K, 4]` and labels `[N, K]` before suppression, as `decode` returns them."""
        outputs = self.network(images, image_sizes)
        return decode(
            outputs.logits,
            outputs.deltas,
            image_sizes,
            self.network.cell_anchors,
            outputs.strides,
            centre_offset=self.network.record.centre_offset,
            score_threshold=self.postprocess.threshold,
            top_n=self.postprocess.top_n,
        )

    def suppress(self, scores: Tensor, boxes: Tensor, labels: Tensor) -> Detections:
        """The detections among the candidates."""
        return nms(scores, boxes, labels, iou_threshold=self.postprocess.nms, detections=self.postprocess.detections)
