import errno
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from retinanet.errors import ModelError, RetinaNetError, UsageError
from retinanet.model.checkpoint import (
    Checkpoint,
    build_network,
    create_network,
    create_record,
    fine_tune_state,
    load_checkpoint,
    save_checkpoint,
)
from retinanet.model.network import RetinaNet
from retinanet.types import ClassMap

STATE = {"step": 7, "optimizer": {"momentum": torch.arange(3.0)}, "best": None}


@pytest.fixture
def path(tmp_path, network) -> Path:
    save_checkpoint(tmp_path / "model.pth", network=network, training_state=STATE)
    return tmp_path / "model.pth"


def test_a_network_comes_back_as_it_was(path, network, batch):
    checkpoint = load_checkpoint(path)
    again = build_network(checkpoint)
    assert again.record == network.record
    assert checkpoint.training_state["step"] == 7
    assert torch.equal(checkpoint.training_state["optimizer"]["momentum"], torch.arange(3.0))
    with torch.no_grad():
        expected = network.eval()(batch.images, batch.image_sizes)
        torch.testing.assert_close(again.eval()(batch.images, batch.image_sizes), expected, rtol=0, atol=0)


def test_an_ensemble_comes_back_too(tmp_path, ensemble_record):
    network = RetinaNet(ensemble_record)
    save_checkpoint(tmp_path / "model.pth", network=network, training_state=None)
    again = build_network(load_checkpoint(tmp_path / "model.pth"))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in again.state_dict().items())


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelError, match="no checkpoint"):
        load_checkpoint(tmp_path / "model.pth")
    with pytest.raises(ModelError, match="no checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0, 0.0001, 0.3, 0.9, 0.9999])
def test_a_truncated_file(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match="truncated"):
        load_checkpoint(path)


def test_a_file_whose_middle_is_overwritten(path):
    content = bytearray(path.read_bytes())
    content[64:4096] = bytes(4032)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged|code"):
        load_checkpoint(path)


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused_and_not_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": Malicious()}, "model.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="code" if zipped else "not a checkpoint"):
        load_checkpoint("model.pth")
    Path("model.pth").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ModelError):
        load_checkpoint("model.pth")
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.zeros(3), {"format": "else", "version": 1}])
def test_a_torch_file_that_is_not_ours(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ModelError, match="something else"):
        load_checkpoint(tmp_path / "model.pth")


def test_a_newer_version_asks_for_an_upgrade(path):
    content = torch.load(path, weights_only=True)
    torch.save({**content, "version": 2}, path)
    with pytest.raises(ModelError, match="upgrade"):
        load_checkpoint(path)


def test_weights_that_are_not_the_records(path):
    checkpoint = load_checkpoint(path)
    state = dict(checkpoint.state_dict)
    state["surprise"] = state.pop("pyramids.0.p6.weight")
    with pytest.raises(ModelError, match=r"2 of them.*pyramids\.0\.p6\.weight, surprise"):
        build_network(Checkpoint(checkpoint.record, state, None))
    with pytest.raises(ModelError, match="class_head"):
        build_network(replace(checkpoint, record=replace(checkpoint.record, classes=ClassMap((1,), ("cat",)))))


@pytest.mark.parametrize("name", ["resnet_of_tomorrow", "test_resnet.of_tomorrow", "vit_tiny_patch16_224"])
def test_a_backbone_that_the_installed_timm_lacks(path, name):
    checkpoint = load_checkpoint(path)
    backbone = replace(checkpoint.record.backbones[0], name=name)
    with pytest.raises(ModelError, match=rf"{name}.*upgrade timm"):
        build_network(replace(checkpoint, record=replace(checkpoint.record, backbones=(backbone,))))


def test_a_full_disk_leaves_the_last_good_checkpoint(path, network, monkeypatch):
    good = path.read_bytes()
    save = torch.save

    def fails_halfway(content: object, file) -> None:
        save({"some": torch.zeros(100)}, file)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fails_halfway)
    with pytest.raises(RetinaNetError, match="disk is full"):
        save_checkpoint(path, network=network, training_state=None)
    assert path.read_bytes() == good
    assert [file.name for file in path.parent.iterdir()] == ["model.pth"]


def test_an_interrupted_save_leaves_the_last_good_checkpoint(path, network, monkeypatch):
    good = path.read_bytes()

    def interrupted(content: object, file) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, network=network, training_state=None)
    assert path.read_bytes() == good
    assert [file.name for file in path.parent.iterdir()] == ["model.pth"]


def test_fine_tuning_keeps_rows_by_class_name(network):
    old = Checkpoint(network.record, network.state_dict(), None)
    for value in old.state_dict.values():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape))
    record = replace(network.record, classes=ClassMap((1, 2, 9, 12), ("bird", "wolf", "cat", "bee")))

    state = fine_tune_state(old, record)

    tuned = RetinaNet(record)
    tuned.load_state_dict(state)
    tuned_state = tuned.state_dict()
    kept = old.state_dict["class_head.predict.weight"].unflatten(0, (9, 3))  # cat, dog, bird
    rows = tuned_state["class_head.predict.weight"].unflatten(0, (9, 4))
    assert torch.equal(rows[:, 0], kept[:, 2])
    assert torch.equal(rows[:, 2], kept[:, 0])
    assert rows[:, [1, 3]].std().item() == pytest.approx(0.01, rel=0.2)
    bias = tuned_state["class_head.predict.bias"].unflatten(0, (9, 4))
    assert torch.equal(bias[:, 2], old.state_dict["class_head.predict.bias"].unflatten(0, (9, 3))[:, 0])
    torch.testing.assert_close(bias[:, [1, 3]].sigmoid(), torch.full((9, 2), 0.01))
    for key, value in old.state_dict.items():
        assert key.startswith("class_head.predict") or torch.equal(tuned_state[key], value)


def test_fine_tuning_another_architecture_is_refused(network, record):
    old = Checkpoint(record, network.state_dict(), None)
    with pytest.raises(ModelError, match="same architecture"):
        fine_tune_state(old, replace(record, width=24))
    with pytest.raises(ModelError):
        fine_tune_state(Checkpoint(record, {}, None), record)


def test_new_models_freeze_batch_norm_only_with_weights(record):
    def norm(weights: str) -> str:
        return (
            create_record(
                record.classes, ["test_resnet"], width=16, weights=weights, anchor_scale=4.0, resize=96, max_size=160
            )
            .backbones[0]
            .norm
        )

    assert [norm("none"), norm("pretrained"), norm("weights.pth")] == ["live", "frozen", "frozen"]


def test_a_new_network_takes_its_backbone_from_a_file(tmp_path, record, ensemble_record):
    source = RetinaNet(record).backbones[0].body
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    network = create_network(record, str(tmp_path / "weights.pth"))
    assert all(
        torch.equal(value, source.state_dict()[key]) for key, value in network.backbones[0].body.state_dict().items()
    )
    with pytest.raises(UsageError, match="one backbone"):
        create_network(ensemble_record, str(tmp_path / "weights.pth"))
