"""Convolution, bias, addition and ReLU as one call, where PyTorch's own steps would each read and write the whole."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retinanet.ops.conv_relu import reference, shapes

shapes.register()

_refused: set[tuple[Any, ...]] = set()
"""Problems, of any batch, for which cuDNN had no kernel: it has not one for every geometry, type and GPU."""


def conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """ReLU(conv(x) [+ bias] [+ residual]), for inference.

    On NVIDIA's GPUs it is one kernel of cuDNN, where each step alone would read and write the whole.

    Args:
        x: floating point `[N, C_in, H, W]`; on GPUs channels-last is fastest.
        weight: `[C_out, C_in, kh, kw]`, of the same dtype, as are the other tensors.
        bias: `[C_out]`, or none.
        residual: `[N, C_out, H', W']`, of the result's shape.
        stride, padding, dilation: two numbers each, vertical and horizontal.

    Returns:
        `[N, C_out, H', W']`.
    """
    problem = (x.shape[1:], weight.shape, residual is None, *stride, *padding, *dilation, x.dtype, x.device)
    if x.is_cuda and torch.version.cuda is not None and problem not in _refused:
        geometry = (stride, padding, dilation, 1)
        try:
            if residual is None:
                return torch.ops.aten.cudnn_convolution_relu(x, weight, bias, *geometry)  # type: ignore[no-any-return]
            return torch.ops.aten.cudnn_convolution_add_relu(  # type: ignore[no-any-return]
                x, weight, residual, 1.0, bias, *geometry
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            _refused.add(problem)
    return reference.conv_relu(x, weight, bias, residual, stride, padding, dilation)
