"""The whole detector as one module."""

import torch

from retinanet.config import PostprocessConfig
from retinanet.model.checkpoint import create_network, create_record
from retinanet.predict.detector import Detector
from retinanet.types import ClassMap


def test_torch_export_passes_through_the_whole_detector() -> None:
    torch.manual_seed(0)
    record = create_record(
        ClassMap((3, 17), ("a", "b")),
        ("resnet10t",),
        width=16,
        weights="none",
        anchor_scale=4.0,
        resize=64,
        max_size=96,
    )
    network = create_network(record, "none")
    torch.nn.init.normal_(network.class_head.predict.weight, std=2.0)
    torch.nn.init.zeros_(network.class_head.predict.bias)  # scores around a half: something is detected
    detector = Detector(network, PostprocessConfig(top_n=20, detections=10)).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    sizes = torch.tensor([[64, 96], [50, 40]])

    exported = torch.export.export(detector, (images, sizes)).module()
    others = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    other_sizes = torch.tensor([[33, 96], [64, 70]])
    with torch.no_grad():
        expected = detector(others, other_sizes)
        found = exported(others, other_sizes)
    assert expected.count.min() > 0
    for name, value in expected._asdict().items():
        torch.testing.assert_close(getattr(found, name), value, msg=name)
