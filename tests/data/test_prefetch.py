"""Batches copied ahead of their use."""

import pytest
import torch

from retinanet.data.batching import assemble
from retinanet.data.loader import Made
from retinanet.data.prefetch import prefetch
from retinanet.preprocess import Placed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_all_arrive_in_order_whole_and_recoloured(count):
    """While the GPU is kept busy, and memory of batches already used is taken again."""
    device = torch.device("cuda", 0)
    images = [torch.full((3, 512, 512), number, dtype=torch.uint8) for number in range(count)]
    batches = [assemble((512, 512), [Placed(image, (512, 512), (1.0, 1.0, 0.0, 0.0))] * 4) for image in images]
    brighter = torch.eye(3, 4)
    brighter[:, 3] = 10
    colours = brighter.expand(4, 3, 4).contiguous().pin_memory()
    made = (
        Made(batch._replace(images=batch.images.pin_memory()), {str(number): ""}, colours if number % 2 else None)
        for number, batch in enumerate(batches)
    )
    sums, work = [], torch.randn(4096, 4096, device=device)
    for number, (batch, broken, _) in enumerate(prefetch(made, device)):
        work = (work @ work).clamp(-1, 1)
        assert [tensor.device for tensor in batch] == [device] * 5 + [torch.device("cpu"), device]
        assert broken == {str(number): ""}
        sums.append(batch.images.long().sum())
        del batch
    greys = [number + 10 * (number % 2) for number in range(count)]
    assert [int(total) for total in sums] == [grey * 4 * 3 * 512 * 512 for grey in greys]
