"""An ONNX file runs as its checkpoint does: from the command line, from Python, and with a sentence where it cannot."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from command_line import Command, Shapes
from retinanet import load
from retinanet.config import PostprocessConfig, PredictConfig
from retinanet.errors import ModelError, UsageError
from retinanet.types import Detections

CPU = PredictConfig(device="cpu")
CANVAS = (64, 96)


def assert_close(found: Detections, expected: Detections) -> None:
    assert torch.equal(found.count, expected.count)
    assert torch.equal(found.labels, expected.labels)
    assert int(found.count.sum()) > 0
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-2)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_load_detects_what_the_checkpoint_detects(onnx_model: Path, trained: Path, shapes: Shapes, count: int) -> None:
    """Whatever the number of pictures; the file takes 2 to 4 at once."""
    pictures = sorted(shapes.val_images.iterdir())[:count]
    assert_close(load(onnx_model, config=CPU)(pictures), load(trained, config=PredictConfig(canvas=CANVAS))(pictures))


def test_a_picture_too_large_for_the_canvas_is_shrunk(onnx_model: Path, trained: Path) -> None:
    """A portrait of 96 × 64 would stand out of the canvas at the bottom."""
    portrait = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    found = load(onnx_model, config=CPU)(portrait)
    assert_close(found, load(trained, config=PredictConfig(device="cpu", canvas=CANVAS))(portrait))
    assert (found.boxes[..., 2] <= 64.01).all()
    assert found.boxes[..., 3].max() > 64  # the whole picture is seen, in its own pixels


def test_classes_and_sizes_are_the_checkpoints(onnx_model: Path, trained: Path) -> None:
    found, expected = load(onnx_model, config=CPU), load(trained, config=CPU)
    assert found.classes == expected.classes
    assert (found.resize, found.max_size) == (expected.resize, expected.max_size)
    assert (found.canvas, found.batch) == (CANVAS, 4)


def test_infer_writes_what_the_checkpoint_finds(
    retinanet: Command, onnx_model: Path, trained: Path, shapes: Shapes, tmp_path: Path
) -> None:
    """On the same canvas: the same results, ids included, and the same metrics; the last batch is not full."""
    done = retinanet("infer", onnx_model, **shapes.held_out, output=tmp_path / "onnx.json", batch=3)
    same = retinanet("infer", trained, **shapes.held_out, output=tmp_path / "torch.json", canvas=CANVAS)
    assert done.code == same.code == 0, done.err + same.err
    assert done.out == same.out
    found, expected = (json.loads((tmp_path / name).read_text()) for name in ("onnx.json", "torch.json"))
    assert len(found) == len(expected) > 0
    key = lambda entry: (entry["image_id"], entry["category_id"], *entry["bbox"])  # noqa: E731
    for one, other in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-2)


def test_batches_stay_within_what_the_file_takes(onnx_model: Path) -> None:
    for asked, given in ((1, 2), (3, 3), (64, 4)):
        assert load(onnx_model, config=PredictConfig(device="cpu", batch=asked)).batch == given


def test_options_that_a_file_has_fixed(retinanet: Command, onnx_model: Path, shapes: Shapes, tmp_path: Path) -> None:
    held_out = {**shapes.held_out, "output": tmp_path / "detections.json"}
    for options, words in (
        ({"threshold": 0.3}, "--threshold 0.05"),
        ({"canvas": (64, 128)}, "64 96"),
        ({"precision": "fp16"}, "fp32"),
    ):
        done = retinanet("infer", onnx_model, **held_out, **options)
        assert done.code == 2
        assert words in done.sentence
    assert retinanet("infer", onnx_model, **held_out, threshold=0.05, precision="fp32", canvas=CANVAS).code == 0
    assert load(onnx_model, config=CPU, postprocess=PostprocessConfig()).canvas == CANVAS


def test_someone_elses_onnx_file_gets_a_sentence(
    retinanet: Command, onnx_model: Path, shapes: Shapes, tmp_path: Path
) -> None:
    model = onnx.load(onnx_model)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "theirs.onnx")
    done = retinanet("infer", tmp_path / "theirs.onnx", **shapes.held_out)
    assert done.code == 4
    assert "theirs.onnx" in done.sentence
    assert "retinanet export" in done.sentence


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_truncated_file_gets_a_sentence(onnx_model: Path, tmp_path: Path, part: float) -> None:
    content = onnx_model.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: int(part * len(content))])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        load(tmp_path / "cut.onnx", config=CPU)


def test_a_missing_file_a_checkpoint_and_a_picture_get_a_sentence(
    trained: Path, shapes: Shapes, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"no file .*nowhere\.onnx"):
        load(tmp_path / "nowhere.onnx", config=CPU)
    for other in (trained, next(shapes.val_images.iterdir())):
        with pytest.raises(ModelError, match=r"other\.onnx"):
            load(shutil.copy(other, tmp_path / "other.onnx"), config=CPU)


def test_a_missing_package_names_its_extra(onnx_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'retinanet\[export\]'"):
        load(onnx_model, config=CPU)


def test_the_record_inside_is_enough(onnx_model: Path, shapes: Shapes, tmp_path: Path) -> None:
    """Without the one beside it."""
    alone = load(shutil.copy(onnx_model, tmp_path / "alone.onnx"), config=CPU)
    assert int(alone(sorted(shapes.val_images.iterdir())[:2]).count.sum()) > 0
