"""What `conv_relu` means, in plain PyTorch."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """See `retinanet.ops.conv_relu.conv_relu`."""
    result = F.conv2d(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation))
    return F.relu(result if residual is None else result + residual)
