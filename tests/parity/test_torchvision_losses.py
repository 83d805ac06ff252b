from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou, generalized_box_iou_loss
from torchvision_twin import pictures, randomise, resnet18_retinanet, torchvision_outputs, twin

from retinanet import boxes as box_ops
from retinanet.model.anchors import cell_anchors, grid_anchors
from retinanet.model.criterion import Criterion
from retinanet.model.losses import GIOU_WEIGHT
from retinanet.model.matcher import BACKGROUND, IGNORED, match
from retinanet.model.record import MatchingRecord
from retinanet.types import Batch


def small_anchors() -> torch.Tensor:
    levels = zip(torch.tensor(cell_anchors()[:3]), (8, 16, 32), strict=True)
    return torch.cat([grid_anchors(cell, (128 // s, 160 // s), (s, s), 0.5) for cell, s in levels])


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([140.0, 110.0])
    size = torch.rand(count, 2, generator=generator).pow(2) * 90 + 2
    return torch.cat([corner, corner + size], dim=1)


def tied_boxes(anchors: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Boxes with equal IoUs: copies of anchors and of each other, and tiny ones that many anchors share alike."""
    picked = anchors[torch.randint(len(anchors), (6,), generator=generator)]
    centre = (picked[:, :2] + picked[:, 2:]).div(2).round()
    return torch.cat([picked, picked[:3], torch.cat([centre, centre + 4], dim=1)])


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_matches_equal_torchvisions_matcher(seed, low_quality):
    generator = torch.Generator().manual_seed(seed)
    anchors = small_anchors()
    per_image = [random_boxes(19, generator), tied_boxes(anchors, generator), random_boxes(1, generator)]
    slots = 32
    boxes, labels = torch.zeros(3, slots, 4), torch.full((3, slots), -1)
    for image, some in enumerate(per_image):
        boxes[image, : len(some)] = some
        labels[image, : len(some)] = torch.arange(len(some))
    crowd, sizes = torch.zeros(3, slots, dtype=torch.bool), torch.tensor([[128, 160]] * 3)

    matched, target = match(anchors, boxes, labels, crowd, sizes, MatchingRecord(low_quality=low_quality))

    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=low_quality)
    for image, some in enumerate(per_image):
        expected = matcher(box_iou(some, anchors))
        assert torch.equal(target[image], expected)  # labels are box indices, and the marks -1 and -2 are the same
        assert torch.equal(matched[image][expected >= 0], expected[expected >= 0])
    assert (target == IGNORED).any()
    assert (target == BACKGROUND).any()


def test_giou_equals_torchvision():
    generator = torch.Generator().manual_seed(0)
    a, b = random_boxes(500, generator), random_boxes(500, generator)
    b[:50] = a[:50]
    torch.testing.assert_close(1 - box_ops.giou(a, b), generalized_box_iou_loss(a, b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
def test_losses_equal_torchvisions_on_the_same_outputs(kind):
    torch.manual_seed(0)
    theirs = resnet18_retinanet(16).eval()
    randomise(theirs)
    ours = twin(theirs, "resnet18")
    ours.record = replace(ours.record, box_loss=kind)
    images, image_sizes = pictures([(160, 192), (130, 150)], (160, 192))
    targets = [
        {"boxes": torch.tensor([[8.0, 8, 90, 100], [70, 60, 180, 150]]), "labels": torch.tensor([2, 5])},
        {"boxes": torch.tensor([[20.0, 30, 66, 71]]), "labels": torch.tensor([0])},
    ]

    expected_outputs, anchors = torchvision_outputs(theirs, images, image_sizes)
    outputs = ours(images, image_sizes)
    for image, target in enumerate(targets):
        matches = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(target["boxes"], anchors))
        single = {name: value[image : image + 1] for name, value in expected_outputs.items()}
        head = theirs.head
        head.regression_head._loss_type = "giou"
        # torchvision divides by the image's positives, we leave that to the caller.
        expected = head.compute_loss([target], single, [anchors], [matches])
        if kind == "smooth_l1":  # torchvision has another beta, and no way to change it
            positive = matches >= 0
            coded = BoxCoder((1.0, 1.0, 1.0, 1.0)).encode_single(target["boxes"][matches[positive]], anchors[positive])
            deltas = single["bbox_regression"][0, positive]
            expected["bbox_regression"] = F.smooth_l1_loss(deltas, coded, beta=0.11, reduction="sum") / positive.sum()

        one = outputs._replace(
            logits=tuple(level[image : image + 1] for level in outputs.logits),
            deltas=tuple(level[image : image + 1] for level in outputs.deltas),
        )
        sums = Criterion(ours)(one, batch_of(target, images[image : image + 1], image_sizes[image : image + 1]))
        assert sums.positives == (matches >= 0).sum() > 0
        torch.testing.assert_close(
            sums.classification / sums.positives, expected["classification"], rtol=1e-4, atol=1e-6
        )
        weight = GIOU_WEIGHT if kind == "giou" else 1.0
        torch.testing.assert_close(
            sums.box / sums.positives / weight, expected["bbox_regression"], rtol=1e-4, atol=1e-6
        )


def batch_of(target: dict[str, torch.Tensor], images: torch.Tensor, image_sizes: torch.Tensor) -> Batch:
    boxes, labels = torch.zeros(1, 32, 4), torch.full((1, 32), -1)
    boxes[0, : len(target["boxes"])] = target["boxes"]
    labels[0, : len(target["labels"])] = target["labels"]
    crowd = torch.zeros(1, 32, dtype=torch.bool)
    return Batch(images, image_sizes, boxes, labels, crowd, torch.ones(1, dtype=torch.int64), torch.ones(1, 4))
