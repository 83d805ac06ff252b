"""What joined calls become."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinanet.ops import feature_maps
from retinanet.ops.conv_relu import conv_relu


class FrozenNormConv(nn.Module):
    """A convolution and the frozen batch norm behind it as one convolution.

    The norm is folded into the weights at each call, so that they can be trained.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution."""
        norm = self.norm
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean if self.conv.bias is None else self.conv.bias - norm.running_mean
        return self.conv.weight * scale[:, None, None, None], norm.bias + shift * scale

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_out, H', W']` from `[N, C_in, H, W]`."""
        conv = self.conv
        assert isinstance(conv.padding, tuple)
        return F.conv2d(x, *self.folded(), conv.stride, conv.padding, conv.dilation, conv.groups)


class ConvRelu(nn.Module):
    """ReLU(conv(x) [+ residual]) as one call, of a convolution of one group."""

    def __init__(self, conv: nn.Conv2d | FrozenNormConv) -> None:
        super().__init__()
        self.conv = conv
        plain = conv.conv if isinstance(conv, FrozenNormConv) else conv
        assert isinstance(plain.padding, tuple)
        self.geometry = (plain.stride, plain.padding, plain.dilation)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """`[N, C_out, H', W']` from `x` `[N, C_in, H, W]` and a `residual` of the result's shape."""
        conv = self.conv
        weight, bias = conv.folded() if isinstance(conv, FrozenNormConv) else (conv.weight, conv.bias)
        # Autocast knows convolutions, but not this one.
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        tensors = (None if tensor is None else tensor.to(dtype) for tensor in (x, weight, bias, residual))
        result: Tensor = conv_relu(*tensors, *self.geometry)
        return result


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
