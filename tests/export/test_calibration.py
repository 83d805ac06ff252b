"""`--precision int8|fp8`: calibrated on pictures, compared, kept beside the artifact for next time."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from command_line import Command, Shapes
from retinanet import load
from retinanet.config import ExportConfig, PostprocessConfig, PredictConfig
from retinanet.errors import UsageError
from retinanet.export.calibration import cache_of, calibrate
from retinanet.export.run import run_export
from retinanet.export.tolerance import TOLERANCES, Tolerance
from retinanet.model.checkpoint import load_checkpoint
from retinanet.predict.runtimes.artifact import read_sidecar
from retinanet.predict.runtimes.onnx import OnnxRuntime


@pytest.fixture(scope="module")
def quantised(trained: Path, shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """INT8, calibrated on five pictures. Read only."""
    out = tmp_path_factory.mktemp("quantised") / "model.onnx"
    config = ExportConfig(precision="int8", calibration_images=shapes.images, calibration_count=5, device="cpu")
    run_export(trained, out, config, PostprocessConfig())
    return out


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_quantised_file_detects_like_its_checkpoint(
    retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path, precision: str
) -> None:
    out = tmp_path / "model.onnx"
    done = retinanet(
        *("export", trained, out),
        **{"precision": precision, "calibration_images": shapes.images, "device": "cpu"},
        **{"verify_images": shapes.val_images, "verify_annotations": shapes.val_annotations},
    )
    assert done.code == 0, done.err
    assert re.search(r"7 pictures: [1-9]\d* detections", done.out)
    before, after = map(float, re.search(r"checkpoint (\d+\.\d+), artifact (\d+\.\d+)", done.out).groups())  # type: ignore[union-attr]
    assert before > 0
    assert read_sidecar(out).precision == precision
    operators = [node.op_type for node in onnx.load(out).graph.node]
    assert operators.count("QuantizeLinear") > 20
    onnx.checker.check_model(onnx.load(out), full_check=True)

    held_out = {**shapes.held_out, "output": tmp_path / "results.json"}
    scored = retinanet("infer", out, **held_out)
    assert float(re.search(r"all \| maxDets=100 \] = (\S+)", scored.out)[1]) == pytest.approx(after / 100, abs=6e-4)  # type: ignore[index]
    scored = retinanet("infer", trained, **held_out, canvas=(64, 96))
    assert float(re.search(r"all \| maxDets=100 \] = (\S+)", scored.out)[1]) == pytest.approx(before / 100, abs=6e-4)  # type: ignore[index]


def test_scores_are_those_of_rounded_numbers(quantised: Path, trained: Path, shapes: Shapes) -> None:
    """Near the checkpoint's, and not the same."""
    picture = sorted(shapes.val_images.iterdir())[1]
    expected = load(trained, config=PredictConfig(canvas=(64, 96), device="cpu"))([picture])
    found = load(quantised, config=PredictConfig(device="cpu"))([picture])
    difference = (found.scores[0, :3] - expected.scores[0, :3]).abs()
    assert 1e-4 < difference.max() < 0.1


def test_the_calibration_is_used_again(quantised: Path, retinanet: Command, trained: Path, tmp_path: Path) -> None:
    """By another precision, without the pictures; a file of another name has none."""
    cache = shutil.copy(quantised.with_suffix(".calibration.json"), tmp_path)
    done = retinanet("export", trained, tmp_path / "model.onnx", precision="fp8", device="cpu")
    assert done.code == 0, done.err
    assert "Using the calibration" in done.err
    assert Path(cache).read_bytes() == quantised.with_suffix(".calibration.json").read_bytes()
    done = retinanet("export", trained, tmp_path / "other.onnx", precision="int8", device="cpu")
    assert done.code == 2
    assert "--calibration-images" in done.sentence


@pytest.mark.parametrize("what", ["nothing", "weights", "canvas", "count", "pictures", "damage"])
def test_a_calibration_that_does_not_fit_is_made_anew(
    quantised: Path, trained: Path, own_shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    cache = cache_of(tmp_path / "model.plan")
    shutil.copy(cache_of(quantised), cache)
    checkpoint, record = load_checkpoint(trained), OnnxRuntime.read_record(quantised)
    count = 6 if what == "count" else 5
    config = ExportConfig(precision="int8", calibration_images=own_shapes.images, calibration_count=count)
    if what == "weights":
        checkpoint.state_dict["class_head.tower.0.0.weight"][0, 0] += 0.01
    if what == "canvas":
        record = replace(record, canvas=(96, 96))
    if what == "pictures":
        first = sorted(own_shapes.images.iterdir())[0]
        Image.fromarray(255 - np.asarray(Image.open(first))).save(first)
    if what == "damage":
        cache.write_text('{"version": 1, "ranges": 3}')
    known = json.loads(cache_of(quantised).read_bytes())

    found = calibrate(checkpoint, record, config, tmp_path / "model.plan", torch.device("cpu"))
    said = capsys.readouterr().err
    assert ("Using the calibration" in said) == (what == "nothing")
    assert ("cannot be used" in said) == (what == "damage")
    assert (found.ranges == known["ranges"]) == (what in ("nothing", "damage"))
    if what in ("weights", "canvas"):  # nor is it used where no pictures are given
        with pytest.raises(UsageError, match="other weights or another canvas"):
            calibrate(
                checkpoint,
                record,
                replace(config, calibration_images=None),
                tmp_path / "model.plan",
                torch.device("cpu"),
            )


def test_broken_pictures_are_left_out_and_named(
    retinanet: Command, trained: Path, own_shapes: Shapes, tmp_path: Path
) -> None:
    first, second, *others = sorted(own_shapes.images.iterdir())
    first.write_bytes(first.read_bytes()[:-400])  # its header is whole
    second.write_bytes(b"no picture")
    options = {"precision": "int8", "calibration_images": own_shapes.images, "device": "cpu"}
    done = retinanet("export", trained, tmp_path / "a.onnx", verify_images=own_shapes.val_images, **options)
    assert done.code == 0, done.err
    assert f"Left out: Image {first}" in done.err
    assert json.loads((tmp_path / "a.calibration.json").read_bytes())["count"] == len(others)

    for path in others:
        path.unlink()
    done = retinanet("export", trained, tmp_path / "b.onnx", verify_images=own_shapes.val_images, **options)
    assert done.code == 3
    assert "None of the 1 calibration images can be read" in done.sentence
    assert not list(tmp_path.glob("b.*"))


@pytest.mark.parametrize(
    ("name", "options", "code", "words"),
    [
        ("m.onnx", {"precision": "int8"}, 2, "--calibration-images DIR"),
        ("m.onnx", {"precision": "int8", "calibration_images": "nowhere"}, 3, "nowhere"),
        ("m.onnx", {"precision": "int8", "calibration_images": "EMPTY"}, 3, "holds no image"),
        ("m.onnx", {"precision": "fp16", "calibration_images": "IMAGES"}, 2, "int8 and fp8"),
        ("m.onnx", {"precision": "int8", "calibration_images": "IMAGES", "calibration_count": 0}, 2, "at least 1"),
        ("m.pt2", {"precision": "int8", "calibration_images": "IMAGES"}, 2, ".plan or .onnx"),
        ("m.onnx", {"verify_annotations": "ANNOTATIONS"}, 2, "--verify-images DIR"),
        ("m.onnx", {"verify_annotations": "nowhere.json", "verify_images": "IMAGES"}, 3, "nowhere.json"),
        ("m.onnx", {"verify_annotations": "ANNOTATIONS", "verify_images": "OTHERS"}, 3, "holds none"),
        ("nowhere/m.onnx", {"precision": "int8", "calibration_images": "IMAGES"}, 2, "no folder"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path, name: str, options: dict, code: int, words: str
) -> None:
    places = {"IMAGES": shapes.images, "ANNOTATIONS": shapes.annotations, "EMPTY": tmp_path / "empty"}
    places["OTHERS"] = tmp_path / "others"
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    shutil.copy(sorted(shapes.val_images.iterdir())[0], tmp_path / "others" / "other.jpg")
    options = {key: places.get(value, value) for key, value in options.items()}
    done = retinanet("export", trained, tmp_path / name, device="cpu", **options)
    assert done.code == code, done.err
    assert words in done.sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "others"]


def test_a_file_that_lost_accuracy_is_removed(
    retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scored on what the checkpoint itself is surest of; boxes move by less than the comparison would mind."""
    found = tmp_path / "found.json"
    assert retinanet("infer", trained, **{**shapes.held_out, "output": found}, canvas=(64, 96), detections=3).code == 0
    boxes = [{**row, "id": index, "iscrowd": 0} for index, row in enumerate(json.loads(found.read_bytes()), start=1)]
    content = json.loads(shapes.val_annotations.read_bytes())
    found.write_text(json.dumps({**content, "annotations": boxes}))
    options = {"verify_images": shapes.val_images, "verify_annotations": found, "device": "cpu"}
    done = retinanet("export", trained, tmp_path / "good.onnx", **options)
    assert done.code == 0, done.err
    assert float(re.search(r"checkpoint (\d+\.\d+)", done.out)[1]) > 10  # type: ignore[index]

    monkeypatch.setitem(TOLERANCES, "fp32", Tolerance(score=0.5, box=0.5, unmatched=1.0, ap=0.01))
    honest = OnnxRuntime._run

    def shifted(*arguments: object) -> tuple[torch.Tensor, ...]:
        scores, boxes, classes = honest(*arguments)  # type: ignore[arg-type]
        return scores, boxes + 5 * (scores > 0)[..., None], classes

    monkeypatch.setattr(OnnxRuntime, "_run", shifted)
    done = retinanet("export", trained, tmp_path / "m.onnx", **options)
    assert done.code == 5
    assert "less accurate than its checkpoint and was removed" in done.sentence
    assert not list(tmp_path.glob("m.*"))


def test_annotations_of_other_classes_are_refused(
    retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path
) -> None:
    content = json.loads(shapes.val_annotations.read_bytes())
    content["categories"][0]["name"] = "wheel"
    (tmp_path / "other.json").write_text(json.dumps(content))
    done = retinanet(
        *("export", trained, tmp_path / "m.onnx"),
        **{"verify_images": shapes.val_images, "verify_annotations": tmp_path / "other.json", "device": "cpu"},
    )
    assert done.code == 3
    assert load_checkpoint(trained).record.classes.names[0] in done.sentence


def test_annotations_without_objects_are_refused(
    retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path
) -> None:
    content = json.loads(shapes.val_annotations.read_bytes())
    (tmp_path / "none.json").write_text(json.dumps({**content, "annotations": []}))
    done = retinanet(
        *("export", trained, tmp_path / "m.onnx"),
        **{"verify_images": shapes.val_images, "verify_annotations": tmp_path / "none.json", "device": "cpu"},
    )
    assert done.code == 3
    assert "has none" in done.sentence
