"""The PyTorch runtime: the detector as it was trained, in any arithmetic, one backbone or several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from command_line import Command, Shapes, checkpoint, metric_rows
from retinanet.config import PostprocessConfig
from retinanet.predict.runtimes.base import Runtime
from retinanet.predict.runtimes.torch import TorchRuntime

IMAGES = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SIZES = torch.tensor([[64, 96], [50, 64]])


def runtime(path: Path, precision: str | None = None) -> TorchRuntime:
    return TorchRuntime.from_file(path, postprocess=PostprocessConfig(), device="cpu", precision=precision)


def test_it_says_what_it_was_trained_for(trained: Path) -> None:
    found: Runtime = runtime(trained)
    assert found.classes.ids == (3, 17, 44)
    assert (found.resize, found.max_size) == (64, 96)
    assert found.device == torch.device("cpu")


def test_boxes_stay_within_their_picture_on_the_canvas(trained: Path) -> None:
    found = runtime(trained)(IMAGES, SIZES)
    assert (found.count > 0).all()
    limits = SIZES.flip(1).repeat(1, 2)[:, None]
    assert (found.boxes <= limits).all()
    assert not any(column.requires_grad for column in found)


def test_what_lies_beside_the_picture_changes_nothing(trained: Path) -> None:
    model = runtime(trained)
    other = IMAGES.clone()
    other[1, :, 50:], other[1, :, :, 64:] = 255, 9
    for one, two in zip(model(IMAGES, SIZES), model(other, SIZES), strict=True):
        assert torch.equal(one, two)


def test_a_blank_slot_does_not_disturb_the_others(trained: Path) -> None:
    model = runtime(trained)
    blank = torch.tensor([[64, 96], [0, 0]])
    one, two = model(IMAGES, SIZES), model(IMAGES, blank)
    assert torch.equal(one.boxes[0], two.boxes[0])
    assert torch.isfinite(two.boxes).all()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_finds_nearly_the_same(trained: Path, precision: str) -> None:
    exact, rounded = runtime(trained)(IMAGES, SIZES), runtime(trained, precision)(IMAGES, SIZES)
    assert rounded.scores.dtype == rounded.boxes.dtype == torch.float32
    torch.testing.assert_close(rounded.scores[:, :10], exact.scores[:, :10], rtol=0.05, atol=0)


def test_an_ensemble_of_two_normalisations_trains_and_predicts(
    train: Command, retinanet: Command, shapes: Shapes, tmp_path: Path
) -> None:
    model = tmp_path / "model.pth"
    options = {"backbone": ("test_resnet", "test_efficientnet"), "iters": 60, "optimizer": "adamw", "lr": 0.003}
    assert train(model, **options, **shapes.validation, val_every=100).code == 0
    first, second = checkpoint(model)["record"]["backbones"]
    assert first["mean"] != second["mean"]
    losses = [float(row["class_loss"]) for row in metric_rows(model) if row["class_loss"]]
    assert losses[-1] < 0.8 < losses[0]

    assert retinanet("infer", model, **shapes.held_out, output=tmp_path / "detections.json").code == 0
    entries = json.loads((tmp_path / "detections.json").read_text())
    assert {entry["category_id"] for entry in entries} <= {3, 17, 44}
    assert entries

    # Both members are heard: where one's levels say nothing, something is missing.
    everything = PostprocessConfig(threshold=1e-4, nms=1.0, detections=3000)
    whole = TorchRuntime.from_file(model, postprocess=everything, device="cpu")(IMAGES, SIZES)
    for member in (0, 1):
        content = checkpoint(model)
        for name, weight in content["state_dict"].items():
            if name.startswith(f"pyramids.{member}."):
                weight.zero_()
        torch.save(content, tmp_path / "half.pth")
        half = TorchRuntime.from_file(tmp_path / "half.pth", postprocess=everything, device="cpu")(IMAGES, SIZES)
        assert not torch.equal(half.scores, whole.scores)
