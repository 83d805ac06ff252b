"""The kernel against its reference, which is tested beside `preprocess`."""

import pytest
import torch
from torch.nn import functional as F

from retinanet import preprocess
from retinanet.ops.normalise import triton

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def draw(count=3, size=(13, 21)):
    return torch.randint(0, 256, (count, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("layout", ["channels-last", "planes", "a window of larger images"])
def test_the_kernel_agrees(layout, channels, dtype, device, poisoned):
    images = draw(size=(33, 70))[..., 3:30, 5:60] if layout == "a window of larger images" else draw(size=(27, 55))
    if layout == "channels-last":
        images = images.contiguous(memory_format=torch.channels_last)
    sizes = torch.tensor([[27, 55], [1, 20], [0, 0]])
    constants = MEAN.to(device, dtype), STD.to(device, dtype)
    found = triton.normalise(images.to(device), sizes.to(device), *constants, channels).cpu()
    expected = preprocess.normalise(images, sizes, MEAN.to(dtype).double(), STD.to(dtype).double())
    expected = F.pad(expected, (0, 0, 0, 0, 0, channels - 3))
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)
