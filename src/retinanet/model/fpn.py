"""The feature pyramid: five maps of one width from a backbone's last three (Lin et al. 2017, FPN; RetinaNet sec. 3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from retinanet.model.record import P6Source


class FPN(nn.Module):
    """P3…P7 (strides 8…128) of `width` channels from C3…C5, finest first."""

    def __init__(self, in_channels: Sequence[int], width: int, p6_source: P6Source) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in in_channels)
        self.p6_source = p6_source
        self.p6 = nn.Conv2d(width if p6_source == "p5" else in_channels[-1], width, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps `[N, width, H_l, W_l]`, P3 first, from C3…C5 `[N, channels, H_l, W_l]`."""
        pyramid = [output(feature) for output, feature in zip(self.output, self.merge(features), strict=True)]
        p6 = self.p6(pyramid[-1] if self.p6_source == "p5" else features[-1])
        return [*pyramid, p6, self.p7(F.relu(p6))]

    def merge(self, features: Sequence[Tensor]) -> list[Tensor]:
        """C3…C5 in `width` channels, the coarser ones added to each. A runtime may have a faster way."""
        merged = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for level in range(len(merged) - 2, -1, -1):
            merged[level] = merged[level] + F.interpolate(merged[level + 1], size=merged[level].shape[-2:])
        return merged
