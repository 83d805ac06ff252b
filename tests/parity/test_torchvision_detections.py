"""From pictures to final detections: the whole detector beside the whole of torchvision's RetinaNet."""

import pytest
import torch
from torchvision.models.detection import RetinaNet
from torchvision_twin import detect, pictures, randomise, resnet18_retinanet, threshold_of_distinct_candidates, twin

from retinanet.config import PostprocessConfig
from retinanet.predict.detector import Detector


@pytest.mark.parametrize("canvas", [(512, 512), (800, 1344)])
@torch.no_grad()
def test_detections_equal_torchvisions(canvas: tuple[int, int]) -> None:
    compared = 0
    for seed in range(40):
        theirs = random_model(canvas, seed)
        images, image_sizes = pictures([canvas], canvas, seed)
        threshold = threshold_of_distinct_candidates(theirs, images[0])
        if threshold is None:  # rounding could decide here, on this processor
            continue
        expected = detect(theirs, images[0], threshold, 0.5, 100)
        found = Detector(twin(theirs, "resnet18"), PostprocessConfig(threshold=threshold))(images, image_sizes)

        count = len(expected["scores"])
        assert 50 <= count <= 100
        assert found.count.tolist() == [count]
        assert found.labels[0, :count].tolist() == expected["labels"].tolist()
        torch.testing.assert_close(found.scores[0, :count], expected["scores"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.boxes[0, :count], expected["boxes"], rtol=1e-4, atol=0.02)
        compared += 1
        if compared == 2:
            return
    raise AssertionError("no random model has distinct candidates")


def random_model(canvas: tuple[int, int], seed: int) -> RetinaNet:
    torch.manual_seed(seed)
    model = resnet18_retinanet(16).eval()
    randomise(model, seed)
    model.head.classification_head.cls_logits.weight.mul_(8)  # scores from near 0 to near 1
    model.transform.min_size, model.transform.max_size = (min(canvas),), max(canvas)  # so that it resizes nothing
    return model
