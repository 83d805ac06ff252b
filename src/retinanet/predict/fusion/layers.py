"""What joined calls become."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvRelu(nn.Module):
    """ReLU(conv(x) + bias [+ residual]): one call of cuDNN on GPUs, where each step alone reads and writes it all.

    Takes over the weights of a `Conv2d` of one group.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.groups == 1
        assert isinstance(conv.padding, tuple)
        self.weight = conv.weight
        bias = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.joined = torch.version.cuda is not None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """`[N, C_out, H', W']` from `x` `[N, C_in, H, W]` and a `residual` of the result's shape."""
        if x.is_cuda and self.joined:
            try:
                return self._cudnn(x, residual)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # cuDNN has no such kernel for every geometry, type and GPU
                self.joined = False
        result = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
        return F.relu(result if residual is None else result + residual)

    def _cudnn(self, x: Tensor, residual: Tensor | None) -> Tensor:
        weight, bias, geometry = self.weight, self.bias, (self.stride, self.padding, self.dilation, 1)
        if residual is None:
            result: Tensor = torch.ops.aten.cudnn_convolution_relu(x, weight, bias, *geometry)
        else:
            result = torch.ops.aten.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, *geometry)
        return result
