"""What `normalise` means, in plain PyTorch."""

from torch import Tensor
from torch.nn import functional as F

from retinanet import preprocess


def normalise(images: Tensor, image_sizes: Tensor, mean: Tensor, std: Tensor, channels: int = 3) -> Tensor:
    """See `retinanet.ops.normalise.normalise`."""
    return F.pad(preprocess.normalise(images, image_sizes, mean, std), (0, 0, 0, 0, 0, channels - 3))
