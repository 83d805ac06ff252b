"""The class map from annotations to results, and fine-tuning to other classes: rows of the head go by name."""

import json
from pathlib import Path

import pytest
import torch

from command_line import Command, Done, Shapes, checkpoint

OLD = {3: "disc", 17: "rectangle", 44: "triangle"}
NEW = {5: "triangle", 8: "star", 90: "disc"}


def seeing_only(index: int, model: Path, target: Path) -> Path:
    """A copy of the model that finds class `index` everywhere, and no other."""
    content = checkpoint(model)
    state, classes = content["state_dict"], len(content["record"]["classes"]["ids"])
    state["class_head.predict.weight"].zero_()
    bias = state["class_head.predict.bias"].view(-1, classes)
    bias.fill_(-9)
    bias[:, index] = 2
    torch.save(content, target)
    return target


def categories(results: Path) -> set[int]:
    return {entry["category_id"] for entry in json.loads(results.read_text())}


def infer(retinanet: Command, model: Path, shapes: Shapes, output: Path) -> Done:
    return retinanet("infer", model, **shapes.held_out, output=output)


def with_classes(data: Shapes, classes: dict[int, str]) -> None:
    """Give the data other classes: what was a triangle or a disc stays one, rectangles are stars now."""
    now = {"disc": "disc", "triangle": "triangle", "rectangle": "star"}
    id_of = {name: id_ for id_, name in classes.items()}
    for path in (data.annotations, data.val_annotations):
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            annotation["category_id"] = id_of[now[OLD[annotation["category_id"]]]]
        content["categories"] = [{"id": id_, "name": name} for id_, name in classes.items()]
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_ids_come_back_as_they_were(
    retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path, index: int
) -> None:
    model = seeing_only(index, trained, tmp_path / "model.pth")
    done = infer(retinanet, model, shapes, tmp_path / "detections.json")
    assert done.code == 0
    assert categories(tmp_path / "detections.json") == {list(OLD)[index]}
    table = [line.split() for line in done.out.splitlines()[-3:]]
    assert [(name, int(id_)) for name, id_, _ in table] == [(name, id_) for id_, name in OLD.items()]
    # Boxes everywhere find something, and nothing of the other classes.
    recall = next(line for line in done.out.splitlines() if "(AR)" in line and "maxDets=100" in line)
    assert float(recall.split()[-1]) > 0
    assert all(float(ap) == 0 for i, (*_, ap) in enumerate(table) if i != index)


def test_fine_tuning_carries_classes_by_name(
    retinanet: Command, train: Command, trained: Path, own_shapes: Shapes, tmp_path: Path
) -> None:
    disc_seer = seeing_only(0, trained, tmp_path / "disc.pth")
    with_classes(own_shapes, NEW)
    tuned = tmp_path / "tuned.pth"
    options = {"backbone": None, "width": None, "weights": None, "fine_tune": disc_seer}
    done = train(tuned, data=own_shapes, **options, iters=1, optimizer="sgd", lr=1e-9)
    assert done.code == 0
    assert checkpoint(tuned)["record"]["classes"] == {"ids": tuple(NEW), "names": tuple(NEW.values())}
    bias = checkpoint(tuned)["state_dict"]["class_head.predict.bias"].view(-1, 3)
    prior = -torch.tensor(99.0).log()
    torch.testing.assert_close(bias, torch.tensor([-9, prior, 2]).expand(9, 3), rtol=0, atol=1e-4)

    done = infer(retinanet, tuned, own_shapes, tmp_path / "detections.json")
    assert categories(tmp_path / "detections.json") == {90}
    assert [line.split()[:2] for line in done.out.splitlines()[-3:]] == [
        ["triangle", "5"],
        ["star", "8"],
        ["disc", "90"],
    ]


def test_a_fine_tuned_run_goes_on_and_learns(train: Command, trained: Path, own_shapes: Shapes, tmp_path: Path) -> None:
    with_classes(own_shapes, NEW)
    tuned = tmp_path / "tuned.pth"
    options = {"backbone": None, "width": None, "weights": None, "fine_tune": trained, "lr": 0.001}
    assert train(tuned, data=own_shapes, **options, iters=4).code == 0
    assert train(tuned, data=own_shapes, **options, iters=6, **own_shapes.validation).code == 0
    content = checkpoint(tuned)
    assert content["training_state"]["step"] == 6
    # All but the new class's rows began as the old model's.
    old = checkpoint(trained)["state_dict"]
    body = "backbones.0.body.conv1.0.weight"
    assert (content["state_dict"][body] - old[body]).abs().max() < 0.02
    done = train(tuned, data=own_shapes, **{**options, "resize": 48}, iters=7)
    assert done.code == 2
    assert "--resize" in done.sentence


def test_fine_tuning_needs_a_model(train: Command, tmp_path: Path) -> None:
    done = train(tmp_path / "tuned.pth", fine_tune=tmp_path / "none.pth")
    assert done.code == 4
    assert "none.pth" in done.sentence
    assert not (tmp_path / "tuned.pth").exists()


def frozen_parts(path: Path, before: Path) -> set[str]:
    """The backbone's modules of which no value differs between two checkpoints."""
    old, new = (checkpoint(model)["state_dict"] for model in (before, path))
    body = [name for name in old if name.startswith("backbones.0.body.")]
    part = {name: name.removeprefix("backbones.0.body.").split(".")[0] for name in body}
    moved = {part[name] for name in body if not torch.equal(old[name], new[name])}
    return set(part.values()) - moved


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"conv1", "bn1", "layer1"}),
        ({"freeze": 1}, {"conv1", "bn1"}),
        ({"freeze": 0}, set()),
        ({"norm": "frozen", "freeze": 0}, {"bn1"}),
    ],
)
def test_first_stages_and_norms_stay_as_they_were(
    train: Command, trained: Path, tmp_path: Path, options: dict, expected: set[str]
) -> None:
    new = {"backbone": None, "width": None, "weights": None, "fine_tune": trained}
    assert train(tmp_path / "tuned.pth", **new, **options, iters=2, lr=0.01).code == 0
    assert frozen_parts(tmp_path / "tuned.pth", trained) == expected
    assert train(tmp_path / "tuned.pth", **new, **options, iters=3, lr=0.01).code == 0
    other = train(tmp_path / "tuned.pth", **new, **{**options, "freeze": 3}, iters=4)
    assert other.code == 2
    assert "--freeze" in other.sentence


@pytest.mark.parametrize("options", [{"freeze": 1}, {"freeze": 6, "weights": "pretrained"}, {"norm": "frozen"}])
def test_nothing_that_has_not_learned_is_frozen(train: Command, tmp_path: Path, options: dict) -> None:
    done = train(tmp_path / "model.pth", **options)
    assert done.code == 2
    assert f"--{next(iter(options))}" in done.sentence


def test_batch_norm_may_be_live_with_learned_weights(train: Command, trained: Path, tmp_path: Path) -> None:
    weights = {
        name.removeprefix("backbones.0.body."): value
        for name, value in checkpoint(trained)["state_dict"].items()
        if name.startswith("backbones.0.body.")
    }
    torch.save(weights, tmp_path / "backbone.pth")
    for norm in ("live", "frozen", None):
        path = tmp_path / f"{norm}.pth"
        assert train(path, weights=tmp_path / "backbone.pth", norm=norm, iters=2).code == 0
        content = checkpoint(path)
        assert content["record"]["backbones"][0]["norm"] == (norm or "frozen")
        moved = not torch.equal(
            content["state_dict"]["backbones.0.body.layer4.0.bn1.running_mean"], weights["layer4.0.bn1.running_mean"]
        )
        assert moved == (norm == "live")
        assert torch.equal(content["state_dict"]["backbones.0.body.bn1.running_mean"], weights["bn1.running_mean"])
