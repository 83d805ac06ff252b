"""The network's first step on a GPU, in one pass: `retinanet.preprocess.normalise` is its reference."""

from torch import Tensor

from retinanet import preprocess
from retinanet.ops.backend import kernels_available


def normalise(images: Tensor, image_sizes: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`preprocess.normalise`; by a kernel it is computed in float32, and the result is channels-last in memory."""
    if images.is_cuda and kernels_available():
        from retinanet.ops.normalise import triton

        return triton.normalise(images, image_sizes, mean, std)
    return preprocess.normalise(images, image_sizes, mean, std)
