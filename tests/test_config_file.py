"""Options as a file: nothing is lost on the way, the command line wins, and mistakes are one sentence."""

from __future__ import annotations

import contextlib
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from command_line import SMALL, Command, Shapes, assert_same, checkpoint
from retinanet import cli
from retinanet.config import DataConfig, ModelConfig, TrainConfig
from retinanet.config_file import write_config
from retinanet.train import run
from retinanet.train.job import TrainingJob

# Every option, none as it is by default.
MODEL = {
    **{"backbone": ("resnet18", "tf_efficientnet_lite0"), "width": 64, "weights": "none", "norm": "live"},
    **{"fine_tune": Path('with "quotes" and \\backslash, Ж.pth'), "freeze": 3, "anchor_scale": 2.5},
}
DATA = {
    **{"resize": 320, "max_size": 600, "jitter": (256, 384), "flip": 0.0, "colour_jitter": 0.3},
    **{"batch": 6, "workers": 3},
}
TRAIN = {
    **{
        "recipe": "classic",
        "matching": "atss",
        "box_loss": "giou",
        "class_loss": "quality",
        "epochs": 7,
        "iters": 50,
        "optimizer": "sgd",
        "lr": 1e-07,
        "schedule": "step",
        "warmup": 4,
    },
    **{"milestones": (0.25, 0.5, 0.75), "gamma": 0.3, "weight_decay": 0.0, "clip_norm": 3, "accumulate": 2},
    **{
        "ema": 0.999,
        "mosaic": 0.5,
        "precision": "fp16",
        "compile": False,
        "val_every": 2,
        "patience": 4,
        "logdir": Path("runs"),
        "seed": 9,
    },
    **{"device": "cpu", "devices": 2, "loader": "torch", "max_restarts": 1, "save_every": 2.5},
}
INPUTS = {
    **{"images": Path("a b"), "annotations": Path("a.json")},
    **{"val_images": Path("v"), "val_annotations": Path("v.json")},
}


pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch):
    """What `retinanet train` would do with these words."""

    def parse(*words: object) -> TrainingJob:
        found: list[TrainingJob] = []
        monkeypatch.setattr(run, "run_training", found.append)
        monkeypatch.setattr(sys, "argv", ["retinanet", "train", "model.pth", *map(str, words)])
        with contextlib.suppress(SystemExit):
            cli.main()
        assert found, "refused"
        return found[0]

    return parse


@pytest.mark.parametrize("other", ["epochs", "iters"])  # of which one has to be left out
def test_every_option_makes_the_round_trip(parsed, tmp_path: Path, other: str) -> None:
    configs = ModelConfig(**MODEL), DataConfig(**DATA), TrainConfig(**{**TRAIN, other: None})
    for config, given in zip(configs, (MODEL, DATA, TRAIN), strict=True):
        others = {field.name for field in fields(config) if getattr(config, field.name) == field.default}
        assert others <= {"override", other}, "options without a value of their own in this test"
        assert given.keys() == {field.name for field in fields(config)} - {"override"}
    path = tmp_path / "model.config.toml"
    write_config(path, INPUTS, configs, {})
    found = parsed("--config", path)
    assert (found.model, found.data, found.train) == configs
    assert found.inputs == INPUTS


def test_what_is_not_given_stays_a_default_and_says_what_it_was(parsed, tmp_path: Path) -> None:
    configs = ModelConfig(), DataConfig(), TrainConfig(override=True)
    path = tmp_path / "model.config.toml"
    write_config(path, {**INPUTS, "val_images": None}, configs, {"lr": 0.0002, "max_size": 1333})
    text = path.read_text()
    assert "# lr = 0.0002\n" in text
    assert "# max-size = 1333\n" in text
    assert "# val-images =\n" in text
    assert "override" not in text  # it would throw the training away that it is read for
    found = parsed("--config", path)
    assert (found.model, found.data) == configs[:2]
    assert found.train == TrainConfig()


def test_the_command_line_wins(parsed, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('images = "a"\nannotations = "a.json"\nbatch = 4\nmilestones = [0.5]\ncompile = true\nwidth = 64\n')
    found = parsed("--batch", 8, "--config", path, "--milestones", 0.1, 0.2, "--no-compile", "--images", "b")
    assert (found.data.batch, found.train.milestones) == (8, (0.1, 0.2))
    assert (found.train.compile, found.model.width) == (False, 64)
    assert (found.images, found.annotations) == (Path("b"), Path("a.json"))


def test_steps_of_the_file_are_not_silently_more_than_epochs_of_the_command(train: Command, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("iters = 4\n")
    done = train(tmp_path / "model.pth", config=path, epochs=2)
    assert done.code == 2
    assert all(word in done.sentence for word in ("--epochs", "--iters", "--config"))


def test_a_run_of_so_many_steps_says_nothing_of_epochs(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path / "model.pth", iters=1).code == 0
    text = (tmp_path / "model.config.toml").read_text()
    assert "\niters = 1\n" in text
    assert "\n# epochs =\n" in text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("batches = 4", "batches"),
        ("val_everyy = 4", "val_everyy"),
        ('batch = "many"', "batch"),
        ("batch = 4.5", "batch"),
        ("batch = true", "batch"),
        ("batch = [4]", "batch"),
        ("jitter = [64]", "jitter"),
        ("jitter = 64", "jitter"),
        ('jitter = ["a", "b"]', "jitter"),
        ('milestones = [0.1, "x"]', "milestones"),
        ('optimizer = "adam"', "optimizer"),
        ("backbone = 18", "backbone"),
        ('compile = "yes"', "compile"),
        ("images = 5", "images"),
        ("[recipe]\nepochs = 3", "recipe"),
        ("batch = x", "line 1"),
        ('config = "other.toml"', "config"),
        ("batch = -1", "--batch"),
        ("batch = 2024-01-01", "batch"),
    ],
)
def test_mistakes_in_the_file_are_one_sentence(
    retinanet: Command, shapes: Shapes, tmp_path: Path, text: str, named: str
) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    given = {} if named == "images" else shapes.training
    done = retinanet("train", tmp_path / "model.pth", **given, config=path)
    assert done.code == 2
    assert named in done.sentence
    assert len(done.err.strip().splitlines()) == 1


def test_a_file_that_is_not_there_or_not_text(retinanet: Command, shapes: Shapes, tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    for path in (tmp_path / "none.toml", tmp_path, tmp_path / "binary.toml"):
        done = retinanet("train", tmp_path / "model.pth", **shapes.training, config=path)
        assert done.code == 2
        assert str(path) in done.sentence


def test_a_run_can_be_repeated_and_resumed_from_its_file(
    train: Command, retinanet: Command, shapes: Shapes, tmp_path: Path
) -> None:
    first = tmp_path / "model.pth"
    assert train(first, iters=2, lr=0.001, override=True).code == 0
    config = tmp_path / "model.config.toml"
    values = tomllib.loads(config.read_text())
    assert (values["iters"], values["batch"], values["images"]) == (2, SMALL["batch"], str(shapes.images))
    assert "# freeze = 0\n" in config.read_text()
    assert retinanet("train", tmp_path / "again.pth", config=config).code == 0
    assert_same(checkpoint(tmp_path / "again.pth"), checkpoint(first))
    assert retinanet("train", first, config=config, iters=3).code == 0
    assert checkpoint(first)["training_state"]["step"] == 3
