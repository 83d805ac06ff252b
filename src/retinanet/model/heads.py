"""The two heads, shared by all levels: class logits and box deltas (Lin et al. 2017, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from retinanet.model.record import HEAD_NORM_GROUPS, HeadNorm

PRIOR = 0.01
"""Score of every class at the start of training: without it the background's loss swamps all else (section 4.1)."""


class Head(nn.Module):
    """Four 3×3 convolutions with ReLU, and one that predicts `out_channels` values a cell."""

    def __init__(self, width: int, out_channels: int, norm: HeadNorm, prior: float | None = None) -> None:
        super().__init__()
        self.tower = nn.Sequential(*(_hidden(width, norm) for _ in range(4)))
        self.predict = nn.Conv2d(width, out_channels, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if prior is not None:
            assert self.predict.bias is not None
            nn.init.constant_(self.predict.bias, -math.log((1 - prior) / prior))

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Per level `[N, out_channels, H_l, W_l]` from `[N, width, H_l, W_l]`."""
        return tuple(self.level(feature) for feature in pyramid)

    def level(self, feature: Tensor) -> Tensor:
        """`[N, out_channels, H_l, W_l]` from `[N, width, H_l, W_l]`."""
        output: Tensor = self.predict(self.tower(feature))
        return output


def _hidden(width: int, norm: HeadNorm) -> nn.Sequential:
    conv = nn.Conv2d(width, width, 3, padding=1, bias=norm == "none")
    if norm == "none":
        return nn.Sequential(conv, nn.ReLU(inplace=True))
    return nn.Sequential(conv, nn.GroupNorm(HEAD_NORM_GROUPS, width), nn.ReLU(inplace=True))
