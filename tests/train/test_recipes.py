"""Recipes are presets: each value has its option, is kept with the model, and adds nothing to the network."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

from command_line import Command, Shapes, checkpoint
from retinanet import config as options
from retinanet.config import RECIPES, DataConfig, Recipe, RecipeName, TrainConfig
from retinanet.config_file import config_path
from retinanet.data import preparation
from retinanet.data.views import View

MODERN = {"matching": "atss", "box_loss": "giou", "class_loss": "quality"}
CHOICES = {
    **{"optimizer": options.Optimizer, "schedule": options.Schedule, "matching": options.Matching},
    **{"box_loss": options.BoxLoss, "class_loss": options.ClassLoss},
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", CHOICES)
def test_every_value_of_a_recipe_can_be_overridden(recipe: str, name: str) -> None:
    assert getattr(TrainConfig(recipe=recipe).chosen, name) == getattr(RECIPES[recipe], name)
    for value in get_args(CHOICES[name]):
        chosen = TrainConfig(recipe=recipe, **{name: value}).chosen
        assert getattr(chosen, name) == value
        assert all(
            getattr(chosen, f.name) == getattr(RECIPES[recipe], f.name) for f in fields(Recipe) if f.name != name
        )


@pytest.mark.parametrize(("recipe", "of_500"), [("classic", (500, 500)), ("modern", (400, 625))])
def test_the_sizes_of_images_can_be_too(recipe: RecipeName, of_500: tuple[int, int]) -> None:
    assert DataConfig(resize=500).shorter_sides(RECIPES[recipe]) == of_500
    assert DataConfig(resize=500, jitter=(320, 500)).shorter_sides(RECIPES[recipe]) == (320, 500)


@pytest.mark.parametrize(("recipe", "sizes"), [("classic", (64, 64)), ("modern", (51, 80))])
def test_training_draws_the_sizes_of_its_recipe(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: RecipeName, sizes: tuple[int, int]
) -> None:
    drawn = []
    real = preparation.draw_view

    def note(size: tuple[int, int], *arguments: Any) -> View:
        view = real(size, *arguments)
        drawn.append(min(view.resized))
        return view

    monkeypatch.setattr(preparation, "draw_view", note)
    assert train(tmp_path / "model.pth", iters=40, jitter=None, recipe=recipe).code == 0
    assert min(drawn) == sizes[0]
    assert max(drawn) == sizes[1]
    assert f"# jitter = [{sizes[0]}, {sizes[1]}]" in config_path(tmp_path / "model.pth").read_text()


def test_the_classic_recipe_is_the_papers() -> None:
    assert TrainConfig(recipe="classic").chosen == Recipe("sgd", "step", "iou", "smooth_l1", "focal", (1, 1))


def rules(path: Path) -> dict[str, str]:
    record = checkpoint(path)["record"]
    return {"matching": record["matching"]["kind"], "box_loss": record["box_loss"], "class_loss": record["class_loss"]}


def test_a_new_model_keeps_its_rules_and_refuses_others(train: Command, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    assert train(path, iters=1, **MODERN).code == 0
    assert rules(path) == MODERN
    assert train(path, iters=2, **MODERN).code == 0
    for name, other in (("matching", "iou"), ("box_loss", "smooth_l1"), ("class_loss", "focal")):
        done = train(path, iters=3, **{**MODERN, name: other})
        assert done.code == 2
        assert f"another --{name.replace('_', '-')}:" in done.sentence
    done = train(path, iters=3, **MODERN, recipe="classic")
    assert done.code == 2
    assert "--optimizer" in done.sentence


def test_fine_tuning_goes_on_by_the_models_own_rules_unless_asked(train: Command, tmp_path: Path) -> None:
    old = tmp_path / "old.pth"
    assert train(old, iters=1, **MODERN).code == 0
    tuned: dict = {"backbone": None, "width": None, "weights": None, "fine_tune": old, "iters": 1}
    tuned |= {"box_loss": None, "class_loss": None}
    for name, asked, expected in (
        ("own", {}, MODERN),
        ("one", {"box_loss": "smooth_l1"}, {**MODERN, "box_loss": "smooth_l1"}),
        ("all", {"recipe": "classic"}, {"matching": "iou", "box_loss": "smooth_l1", "class_loss": "focal"}),
    ):
        path = tmp_path / f"{name}.pth"
        assert train(path, **(tuned | asked)).code == 0
        assert rules(path) == expected
        assert train(path, **(tuned | asked | {"iters": 2})).code == 0  # and goes on
    assert train(tmp_path / "own.pth", **{**tuned, "iters": 3}, matching="iou").code == 2


def test_a_recipe_adds_nothing_to_the_network(
    train: Command, retinanet: Command, shapes: Shapes, tmp_path: Path
) -> None:
    """The same weights by name and shape; exported, what ATSS, GIoU and quality focal loss taught detects the same."""
    classic, modern = tmp_path / "classic.pth", tmp_path / "modern.pth"
    assert train(classic, iters=1, recipe="classic").code == 0
    assert train(modern, iters=80, lr=0.003, **MODERN).code == 0
    first, second = (checkpoint(path)["state_dict"] for path in (classic, modern))
    assert {key: value.shape for key, value in first.items()} == {key: value.shape for key, value in second.items()}
    done = retinanet("infer", modern, **shapes.held_out, output=tmp_path / "d.json", threshold=0.002)
    assert done.code == 0
    assert json.loads((tmp_path / "d.json").read_text()), "the comparison would be blind"
    pytest.importorskip("onnxscript")
    images = {"verify_images": shapes.val_images, "batch": (1, 2, 4), "device": "cpu", "threshold": 0.002}
    assert retinanet("export", modern, tmp_path / "modern.onnx", **images).code == 0  # it compares, and says if not
