"""`retinanet import`: what names the classes, files as they are met with, and what is refused."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import detection

from command_line import Command, checkpoint
from retinanet.foreign import torchvision as foreign_torchvision
from retinanet.foreign.coco import COCO_CLASSES

State = dict[str, Tensor]
IMAGE = {"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}


@pytest.fixture(scope="module")
def theirs() -> State:
    """torchvision's first model with 7 classes, whose head tells every weight from every other."""
    torch.manual_seed(0)
    return detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=7).state_dict()


def annotations(path: Path, categories: dict[int, str]) -> Path:
    listed = [{"id": id_, "name": name} for id_, name in categories.items()]
    path.write_text(json.dumps({"images": [IMAGE], "annotations": [], "categories": listed}))
    return path


def saved(path: Path, content: object, **options: bool) -> Path:
    torch.save(content, path, **options)
    return path


def old_layout(state: State) -> State:
    """As torchvision saved it up to 0.12: convolutions and ReLUs of the heads in one row, no container in the FPN."""
    old = {}
    for key, value in state.items():
        for index in range(4):
            key = key.replace(f"_head.conv.{index}.0.", f"_head.conv.{2 * index}.")
        old[
            key.replace("_blocks.0.0.", "_blocks.0.")
            .replace("_blocks.1.0.", "_blocks.1.")
            .replace("_blocks.2.0.", "_blocks.2.")
        ] = value
    assert old.keys() != state.keys()
    return old


def test_annotations_choose_and_name_the_rows(retinanet: Command, theirs: State, tmp_path: Path) -> None:
    names = annotations(tmp_path / "names.json", {5: "dog", 1: "cat", 3: "bird"})
    done = retinanet("import", saved(tmp_path / "theirs.pth", theirs), tmp_path / "ours.pth", annotations=names)
    assert done.code == 0
    assert "3 classes (1 cat, 3 bird, 5 dog)" in done.err
    content = checkpoint(tmp_path / "ours.pth")
    assert content["record"]["classes"] == {"ids": (1, 3, 5), "names": ("cat", "bird", "dog")}
    weight = theirs["head.classification_head.cls_logits.weight"].view(9, 7, 256, 3, 3)
    assert torch.equal(content["state_dict"]["class_head.predict.weight"].view(9, 3, 256, 3, 3), weight[:, [1, 3, 5]])


def test_without_annotations_every_row_is_kept(retinanet: Command, theirs: State, tmp_path: Path) -> None:
    assert retinanet("import", saved(tmp_path / "theirs.pth", theirs), tmp_path / "ours.pth").code == 0
    assert checkpoint(tmp_path / "ours.pth")["record"]["classes"]["ids"] == tuple(range(7))


@pytest.mark.parametrize("form", ["old layout", "old format", "reference training"])
def test_files_as_they_are_met_with(retinanet: Command, theirs: State, tmp_path: Path, form: str) -> None:
    assert retinanet("import", saved(tmp_path / "new.pth", theirs), tmp_path / "ours.pth").code == 0
    other = {"old layout": old_layout(theirs), "reference training": {"model": theirs, "epoch": 3}}.get(form, theirs)
    source = saved(tmp_path / "theirs.pth", other, _use_new_zipfile_serialization=form != "old format")
    assert retinanet("import", source, tmp_path / "other.pth").code == 0
    first, second = (checkpoint(tmp_path / name) for name in ("ours.pth", "other.pth"))
    assert first["record"] == second["record"]
    assert all(torch.equal(value, second["state_dict"][key]) for key, value in first["state_dict"].items())


def test_the_published_file_is_known_by_its_hash(
    retinanet: Command, theirs: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def eps(**options: object) -> tuple[float, str]:
        done = retinanet("import", source, tmp_path / "ours.pth", **options)
        return checkpoint(tmp_path / "ours.pth")["record"]["backbones"][0]["norm_eps"], done.err

    source = saved(tmp_path / "theirs.pth", {k: v for k, v in theirs.items() if "num_batches_tracked" not in k})
    found, told = eps()
    assert found == 1e-5
    assert "--norm-eps 0" in told
    monkeypatch.setattr(foreign_torchvision, "COCO_V1_SHA256", "")  # every hash begins with nothing
    assert eps()[0] == 0
    assert eps(norm_eps=0.001)[0] == 0.001


def test_an_import_is_fine_tuned_and_detects(retinanet: Command, shapes, theirs: State, tmp_path: Path) -> None:
    assert retinanet("import", saved(tmp_path / "theirs.pth", theirs), tmp_path / "ours.pth").code == 0
    options = {"fine_tune": tmp_path / "ours.pth", "iters": 1, "batch": 2, "resize": 64, "max_size": 96, "workers": 0}
    assert retinanet("train", tmp_path / "tuned.pth", **shapes.training, **options, device="cpu").code == 0
    content = checkpoint(tmp_path / "tuned.pth")
    assert content["record"]["classes"]["names"] == ("disc", "rectangle", "triangle")
    assert content["record"]["stride_rule"] == "grid"
    assert retinanet("infer", tmp_path / "tuned.pth", **shapes.held_out, output=tmp_path / "d.json").code == 0


class Code:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def without(state: State, key: str) -> State:
    return {name: value for name, value in state.items() if name != key}


def odtk(**changes: object) -> dict[str, object]:
    state = {"cls_head.8.bias": torch.zeros(45), "box_head.8.bias": torch.zeros(36)}
    base = {"backbone": ["ResNet18FPN"], "classes": 5, "state_dict": state, "ratios": [1.0, 2.0, 0.5]}
    return {**base, "scales": [4.0, 5.0, 6.0], **changes}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda state: {"model": state, "args": argparse.Namespace(lr=1)},
            ["objects", "torch.save(model.state_dict()"],
        ),
        (lambda state: {"model": Code()}, ["objects", "never loaded"]),
        (lambda state: [1, 2], ["list"]),
        (lambda state: {"conv1.weight": torch.zeros(3)}, ["other keys", "conv1.weight"]),
        (lambda state: {"model": 3}, ["other keys", "model"]),
        (lambda state: {"format": "retinanet checkpoint"}, ["already"]),
        (lambda state: without(state, "backbone.body.conv1.weight"), ["1 of them", "backbones.0.body.conv1.weight"]),
        (lambda state: {**state, "head.quality.weight": torch.zeros(3)}, ["1 of them", "head.quality.weight"]),
        (lambda state: {**state, "head.regression_head.bbox_reg.bias": torch.zeros(24)}, ["9 anchors", "24"]),
        (lambda state: {**state, "head.classification_head.cls_logits.bias": torch.zeros(64)}, ["64 rows"]),
        (lambda state: odtk(backbone=["VGG16FPN"]), ["VGG16FPN", "ResNet50FPN"]),
        (lambda state: odtk(classes=6), ["6 classes", "cls_head", "54", "45"]),
        (lambda state: odtk(scales=[4.0]), ["3 anchors", "15"]),
        (lambda state: odtk(angles=[0.5]), ["rotated"]),
        (lambda state: odtk(), ["ODTK", "missing"]),
    ],
)
def test_what_is_refused(
    retinanet: Command, theirs: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = retinanet("import", saved(tmp_path / "theirs.pth", make(theirs)), tmp_path / "ours.pth")
    assert done.code == 4
    assert all(word in done.sentence for word in [*words, "theirs.pth"])
    assert {path.name for path in tmp_path.iterdir()} == {"theirs.pth"}


def test_annotations_that_do_not_fit_are_refused(retinanet: Command, theirs: State, tmp_path: Path) -> None:
    source = saved(tmp_path / "theirs.pth", theirs)
    done = retinanet("import", source, tmp_path / "o.pth", annotations=annotations(tmp_path / "n.json", {7: "cat"}))
    assert done.code == 4
    assert "at most 6" in done.sentence
    done = retinanet("import", source, tmp_path / "o.pth", annotations=annotations(tmp_path / "n.json", {}))
    assert done.code == 3
    source = saved(tmp_path / "odtk.pth", odtk())
    done = retinanet("import", source, tmp_path / "o.pth", annotations=annotations(tmp_path / "n.json", {7: "cat"}))
    assert done.code == 4
    assert "5 classes" in done.sentence


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04 cut"])
def test_files_that_are_no_models(retinanet: Command, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "theirs.pth").write_bytes(content)
    done = retinanet("import", tmp_path / "theirs.pth", tmp_path / "ours.pth")
    assert done.code == 4
    assert "theirs.pth" in done.sentence
    assert retinanet("import", tmp_path / "nowhere.pth", tmp_path / "ours.pth").code == 4


def test_coco_has_80_classes() -> None:
    assert (len(COCO_CLASSES), COCO_CLASSES.ids[0], COCO_CLASSES.ids[-1]) == (80, 1, 90)
