"""What recolouring means, picture by picture. It is never exported, so it may ask for the pictures' sizes."""

import torch
from torch import Tensor


def recolour_(images: Tensor, image_sizes: Tensor, matrices: Tensor) -> None:
    """See `ops.recolour`."""
    for image, (height, width), matrix in zip(images, image_sizes.tolist(), matrices, strict=True):
        picture = image[:, :height, :width]
        red, green, blue = picture.float()  # [h, w] each
        of_red, of_green, of_blue, offset = matrix.T[:, :, None, None]  # [3, 1, 1] each
        mixed = of_red * red + of_green * green + of_blue * blue + offset  # [3, h, w]
        picture.copy_((mixed + 0.5).clamp_(0, 255).to(torch.uint8))
