"""`retinanet infer` as a whole: results that COCO's tools read, ids, pictures, and names that lead nowhere else."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from command_line import Command, Shapes, checkpoint
from retinanet.data.coco import read_annotations
from retinanet.predict.dataset import open_loader
from retinanet.predict.predictor import Predictor, load


@pytest.fixture
def infer(retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path) -> Command:
    def run(**options: object):
        return retinanet("infer", trained, **{**shapes.held_out, "output": tmp_path / "detections.json", **options})

    return run


def test_pycocotools_reads_the_results_and_agrees_on_the_metrics(
    infer: Command, shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = infer()
    assert done.code == 0
    truth = COCO(str(shapes.val_annotations))
    evaluator = COCOeval(truth, truth.loadRes(str(tmp_path / "detections.json")), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    capsys.readouterr()
    evaluator.summarize()
    theirs = [line.split() for line in capsys.readouterr().out.splitlines() if "@[" in line]
    ours = [line.split() for line in done.out.splitlines() if "@[" in line]
    assert ours == theirs
    assert len(ours) == 12
    assert evaluator.stats[8] > 0  # the model finds something


def test_a_folder_without_annotations_gets_ids_and_their_map(infer: Command, shapes: Shapes, tmp_path: Path) -> None:
    assert infer(annotations=None).out == ""
    images = json.loads((tmp_path / "detections.images.json").read_text())
    names = sorted(path.name for path in shapes.val_images.iterdir())
    assert [(image["id"], image["file_name"]) for image in images["images"]] == list(enumerate(names, start=1))
    assert [(image["width"], image["height"]) for image in images["images"]] == [
        Image.open(shapes.val_images / name).size for name in names
    ]
    assert images["categories"] == [
        {"id": 3, "name": "disc"},
        {"id": 17, "name": "rectangle"},
        {"id": 44, "name": "triangle"},
    ]
    results = COCO(str(tmp_path / "detections.images.json")).loadRes(str(tmp_path / "detections.json"))
    assert results.getAnnIds()


def test_one_file(infer: Command, shapes: Shapes, tmp_path: Path) -> None:
    path = sorted(shapes.val_images.iterdir())[0]
    assert infer(images=path, annotations=None).code == 0
    (image,) = json.loads((tmp_path / "detections.images.json").read_text())["images"]
    assert (image["id"], image["file_name"]) == (1, path.name)
    assert {entry["image_id"] for entry in json.loads((tmp_path / "detections.json").read_text())} == {1}


def test_results_do_not_depend_on_workers_and_batches(infer: Command, tmp_path: Path) -> None:
    def entries(name: str, **options: object) -> list[dict]:
        assert infer(output=tmp_path / name, **options).code == 0
        found = json.loads((tmp_path / name).read_text())
        return sorted(found, key=lambda entry: (entry["image_id"], -entry["score"], entry["bbox"]))

    first = entries("a.json", workers=0, batch=8)
    assert entries("b.json", workers=2, batch=8) == first
    other = entries("c.json", workers=1, batch=3)
    assert len(other) == len(first)
    for one, two in zip(other, first, strict=True):
        assert one["image_id"] == two["image_id"]
        assert one["score"] == pytest.approx(two["score"], abs=1e-5)


def test_pictures_are_drawn_under_their_names(infer: Command, own_shapes: Shapes, tmp_path: Path) -> None:
    first, second, *others = sorted(own_shapes.val_images.iterdir())
    (own_shapes.val_images / "day 1").mkdir()
    first.rename(own_shapes.val_images / "day 1" / "a.jpg")
    Image.open(second).save(own_shapes.val_images / "b.bmp")
    second.unlink()
    options = {"images": own_shapes.val_images, "annotations": None, "batch": 4}
    assert infer(**options, draw=tmp_path / "deep" / "drawn").code == 0
    drawn = tmp_path / "deep" / "drawn"
    expected = {"day 1/a.jpg", "b.bmp.jpg", *(path.name for path in others)}
    assert {str(path.relative_to(drawn)) for path in drawn.rglob("*") if path.is_file()} == expected
    for name in expected:
        source = own_shapes.val_images / name.removesuffix(".jpg")
        source = source if source.exists() else own_shapes.val_images / name
        assert Image.open(drawn / name).size == Image.open(source).size


@pytest.mark.parametrize(("bias", "least", "most"), [(-9.0, 0, 60), (3.0, 100, 255)])
def test_only_confident_detections_are_drawn(
    retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path, bias: float, least: int, most: int
) -> None:
    content = checkpoint(trained)
    content["state_dict"]["class_head.predict.weight"].zero_()
    content["state_dict"]["class_head.predict.bias"].fill_(bias)
    torch.save(content, tmp_path / "model.pth")
    options = {**shapes.held_out, "output": tmp_path / "detections.json", "draw": tmp_path}
    assert retinanet("infer", tmp_path / "model.pth", **options).code == 0
    for path in shapes.val_images.iterdir():
        change = ImageChops.difference(Image.open(path), Image.open(tmp_path / path.name))
        assert least <= max(high for _, high in change.getextrema()) <= most  # JPEG alone changes a little


@pytest.mark.parametrize("name", ["../outside.jpg", "{absolute}", "day/../../../outside.jpg"])
def test_names_in_annotations_never_lead_out_of_the_folder_of_drawings(
    infer: Command, own_shapes: Shapes, tmp_path: Path, name: str
) -> None:
    outside = own_shapes.val_images.parent / "outside.jpg"
    content = json.loads(own_shapes.val_annotations.read_text())
    outside.write_bytes((own_shapes.val_images / content["images"][0]["file_name"]).read_bytes())
    (own_shapes.val_images / "day").mkdir()
    (own_shapes.val_images.parent.parent / "outside.jpg").write_bytes(outside.read_bytes())
    content["images"][0]["file_name"] = name.format(absolute=outside)
    own_shapes.val_annotations.write_text(json.dumps(content))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    options = {"images": own_shapes.val_images, "annotations": own_shapes.val_annotations}
    assert infer(**options, draw=tmp_path / "drawn").code == 0
    assert {path: path.read_bytes() for path in before} == before
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - set(before) - {tmp_path / "detections.json"}
    assert len(new) == 7
    assert all(path.is_relative_to(tmp_path / "drawn") for path in new)


def test_neither_images_nor_annotations_are_overwritten(
    infer: Command, own_shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(path.name for path in own_shapes.val_images.iterdir())
    (own_shapes.val_images / "sub").mkdir()
    (own_shapes.val_images / "sub" / names[0]).write_bytes((own_shapes.val_images / names[1]).read_bytes())
    (tmp_path / "link").symlink_to(own_shapes.val_images)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / names[2]).symlink_to(own_shapes.val_images / names[2])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.chdir(own_shapes.val_images)
    alone = {"images": own_shapes.val_images, "annotations": None}
    annotated = {"images": own_shapes.val_images, "annotations": own_shapes.val_annotations}
    pattern = {"images": f"../{own_shapes.val_images.name}/*.jpg", "annotations": None}
    attempts: list[tuple[dict[str, Any], str]] = [
        ({**alone, "draw": own_shapes.val_images}, names[0]),
        ({**alone, "draw": own_shapes.val_images / "sub"}, names[0]),
        ({**annotated, "draw": tmp_path / "link"}, names[0]),
        ({**pattern, "draw": ".."}, names[0]),
        ({"images": linked, "annotations": None, "draw": own_shapes.val_images}, names[2]),
        ({**annotated, "output": own_shapes.val_annotations}, "--output"),
    ]
    for options, lost in attempts:
        done = infer(**options)
        assert done.code == 2
        assert "would overwrite" in done.sentence
        assert lost in done.sentence
        assert {path: path.read_bytes() for path in before} == before


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_a_link_to_another_disk_is_followed(infer: Command, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / "detections.json").symlink_to(Path(elsewhere) / "real.json")
        assert infer().code == 0
        assert (tmp_path / "detections.json").is_symlink()
        assert json.loads((Path(elsewhere) / "real.json").read_text())
        assert [path.name for path in Path(elsewhere).iterdir()] == ["real.json"]


def test_results_into_a_device(infer: Command, tmp_path: Path) -> None:
    done = infer(output=Path("/dev/null"))
    assert done.code == 0
    assert "@[" in done.out
    assert not list(tmp_path.iterdir())


def test_every_image_comes_once(trained: Path, shapes: Shapes) -> None:
    predictor: Predictor = load(trained)
    data = read_annotations(shapes.val_annotations, shapes.val_images)
    ids = [i for batch in open_loader(predictor, data, workers=0) for i in batch.image_ids.tolist() if i >= 0]
    assert sorted(ids) == data.image_ids.tolist()


def test_an_interrupted_run_leaves_no_half_results(
    infer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "run", interrupt)
    done = infer()
    assert done.code == 6
    assert list(tmp_path.iterdir()) == []
