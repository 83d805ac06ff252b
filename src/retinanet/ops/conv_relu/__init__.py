"""Convolution, bias, addition and ReLU as one call: a compiler cannot join them, for it calls cuDNN as it is."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from retinanet.ops.conv_relu import reference

_refused: set[tuple[Any, ...]] = set()
"""Problems for which cuDNN had no kernel: it has not one for every geometry, type and GPU."""


@custom_op("retinanet::conv_relu", mutates_args=())
def conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """ReLU(conv(x) [+ bias] [+ residual]), differentiable.

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
    problem = (x.shape, weight.shape, residual is None, *stride, *padding, *dilation, x.dtype, x.device)
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


conv_relu.register_fake(reference.conv_relu)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight, output)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, output = ctx.saved_tensors
    stride, padding, dilation = ctx.geometry
    wanted = list(ctx.needs_input_grad)
    gradient = torch.where(output > 0, gradient, 0)
    gradients = torch.ops.aten.convolution_backward(
        gradient, x, weight, [weight.shape[0]], stride, padding, dilation, False, [0, 0], 1, wanted[:3]
    )
    return (*gradients, gradient if wanted[3] else None, None, None, None)


conv_relu.register_autograd(_differentiate, setup_context=_remember)
