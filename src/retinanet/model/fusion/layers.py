"""What joined calls become, for inference."""

from __future__ import annotations

from torch import Tensor, nn

from retinanet.ops import feature_maps
from retinanet.ops.conv_relu import conv_relu


class ConvRelu(nn.Module):
    """ReLU(conv(x) [+ residual]) as one call, of a convolution of one group."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        assert isinstance(conv.padding, tuple)
        self.geometry = (conv.stride, conv.padding, conv.dilation)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """`[N, C_out, H', W']` from `x` `[N, C_in, H, W]` and a `residual` of the result's shape."""
        return conv_relu(x, self.conv.weight, self.conv.bias, residual, *self.geometry)


class BiasedConv(nn.Module):
    """A convolution whose bias is added in one pass, for inference; `conv` is used up."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bias, conv.bias = conv.bias, None
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_out, H', W']` from `[N, C_in, H, W]`."""
        assert self.bias is not None
        return feature_maps.add_bias(self.conv(x), self.bias)


class MaxPool(nn.Module):
    """Max pooling of squares, for inference."""

    def __init__(self, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.geometry = (kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H', W']` from `[N, C, H, W]`."""
        return feature_maps.max_pool(x, *self.geometry)
