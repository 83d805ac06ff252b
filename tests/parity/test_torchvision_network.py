import pytest
import torch
from torchvision.models import detection
from torchvision_twin import CLASSES, flat, pictures, randomise, resnet18_retinanet, torchvision_outputs, twin


def resnet50_v1() -> detection.RetinaNet:
    return detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES)


def resnet50_v2() -> detection.RetinaNet:
    return detection.retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=CLASSES)


@pytest.mark.parametrize(
    ("make", "backbone", "sizes", "canvas"),
    [
        pytest.param(resnet50_v1, "resnet50", [(512, 411)], (512, 512), id="v1, P6 from P5"),
        pytest.param(resnet50_v2, "resnet50", [(400, 512)], (512, 512), id="v2, P6 from C5, group norm"),
        pytest.param(lambda: resnet18_retinanet(32), "resnet18", [(800, 1344), (640, 801)], (800, 1344), id="large"),
    ],
)
@torch.no_grad()
def test_raw_outputs_and_anchors_equal_torchvision(make, backbone, sizes, canvas):
    torch.manual_seed(0)
    theirs = make().eval()
    randomise(theirs)
    ours = twin(theirs, backbone)
    images, image_sizes = pictures(sizes, canvas)

    expected, anchors = torchvision_outputs(theirs, images, image_sizes)
    outputs = ours(images, image_sizes)

    logits, deltas = flat(outputs.logits, CLASSES), flat(outputs.deltas, 4)
    assert expected["cls_logits"].std() > 0.1, "the comparison would be blind"
    assert expected["bbox_regression"].std() > 0.1, "the comparison would be blind"
    # The same convolutions in the same order: only the normalisation's rounding differs.
    torch.testing.assert_close(logits, expected["cls_logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(deltas, expected["bbox_regression"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.anchors(outputs), anchors, rtol=0, atol=0)


def test_strides_follow_torchvisions_rule_where_they_are_not_nominal():
    ours = twin(resnet18_retinanet(8), "resnet18")
    images, image_sizes = pictures([(800, 1344)], (800, 1344))
    with torch.no_grad():
        strides = ours(images, image_sizes).strides
    assert strides == ((8, 8), (16, 16), (32, 32), (61, 64), (114, 122))
