"""The top-down path of the feature pyramid in fewer passes over its maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from retinanet.ops import feature_maps


def merge(lateral: Sequence[nn.Conv2d], features: Sequence[Tensor]) -> list[Tensor]:
    """`FPN.merge` for inference: its 1×1 convolutions are matrix products, which add up what comes from above.

    A convolution, its bias and the addition would each read and write the whole map.
    """
    merged: list[Tensor] = []
    for conv, feature in zip(reversed(lateral), reversed(features), strict=True):
        weight, bias = conv.weight.flatten(1), conv.bias
        assert bias is not None
        pixels = feature.permute(0, 2, 3, 1)
        if merged:
            above = feature_maps.upsample(merged[0], feature.shape[-2:], bias).permute(0, 2, 3, 1)
            total = above.flatten(0, 2).addmm_(pixels.flatten(0, 2), weight.t()).view(above.shape)
        else:
            total = F.linear(pixels, weight, bias)
        merged.insert(0, total.permute(0, 3, 1, 2))
    return merged
