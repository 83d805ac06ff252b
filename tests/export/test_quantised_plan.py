"""TensorRT-RTX really builds quantised detectors, and computes in what was asked for where it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from command_line import SMALL, Command, Shapes
from retinanet.predict.runtimes.tensorrt import TensorRTRuntime

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the models, which are trained once, and for their calibrations."""
    return tmp_path_factory.mktemp("calibrated")


@pytest.mark.parametrize(
    ("backbone", "int8", "fp8"),
    [("resnet18", 68, 67), ("tf_efficientnet_lite0", 96, 74)],  # fp8: neither the first convolution nor depthwise ones
)
def test_tensorrt_builds_it(
    train: Command, retinanet: Command, shapes: Shapes, calibrated: Path, backbone: str, int8: int, fp8: int
) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = calibrated / f"{backbone}.pth"
    assert train(model, **{**SMALL, "backbone": backbone, "width": 32}, iters=40, lr=0.003).code == 0
    for precision, count, batch in (("int8", int8, (1, 2, 4)), ("fp8", fp8, (2, 2, 2))):
        out = calibrated / f"{backbone}.plan"
        images = shapes.images if precision == "int8" else None  # fp8 has its calibration from int8
        done = retinanet(
            *("export", model, out),
            **{"precision": precision, "batch": batch, "calibration_images": images, "device": "cpu"},
            **{"verify_images": shapes.val_images},
        )
        assert done.code == 0, done.err
        total = int8 + 10  # the heads' last convolutions stay
        assert f"{count} convolutions in {precision} and {total - count} in fp16" in done.out
        assert re.search(r"7 pictures: [1-9]\d* detections", done.out)
        assert TensorRTRuntime.read_record(out).precision == precision
