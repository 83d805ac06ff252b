"""An affine matrix on each picture's colours, in place: what brightness, contrast, saturation and hue come down to.

Matrices whose coefficients are multiples of 1/2048, with 255 (|red| + |green| + |blue|) + |offset| < 8191 in every row,
are applied exactly: each product and sum then fits float32, whatever their order. So all devices give the same pixels.
"""

from torch import Tensor

from retinanet.ops.backend import kernels_available
from retinanet.ops.recolour import reference


def recolour_(images: Tensor, image_sizes: Tensor, matrices: Tensor) -> None:
    """Replace each pixel (r, g, b) of `images` by `matrix @ (r, g, b, 1)`, rounded half up and clamped to 0…255.

    `images` is uint8 `[N, 3, H, W]` of any strides, `image_sizes` int64 `[N, 2]` is (height, width) of the pictures at
    the top left corners; what is outside of them stays as it is. `matrices` is float32 `[N, 3, 4]`. All on one device.
    """
    if images.is_cuda and kernels_available():
        from retinanet.ops.recolour import triton

        triton.recolour_(images, image_sizes, matrices)
    else:
        reference.recolour_(images, image_sizes, matrices)
