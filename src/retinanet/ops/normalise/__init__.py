"""The network's first step on a GPU, in one pass."""

from torch import Tensor

from retinanet.ops.backend import kernels_available
from retinanet.ops.normalise import reference


def normalise(images: Tensor, image_sizes: Tensor, mean: Tensor, std: Tensor, channels: int = 3) -> Tensor:
    """`preprocess.normalise`; by a kernel it is computed in float32, and the result is channels-last in memory.

    Of more than 3 `channels` the further ones are 0: convolutions of 4 run faster on tensor cores.
    """
    if images.is_cuda and kernels_available():
        from retinanet.ops.normalise import triton

        return triton.normalise(images, image_sizes, mean, std, channels)
    return reference.normalise(images, image_sizes, mean, std, channels)
