"""Which loader a run takes, and what it says where that one is missing."""

import sys

import pytest
import torch

from retinanet.data import loading
from retinanet.data.coco import read_annotations
from retinanet.data.loading import choose_loader, make_loader
from retinanet.data.sampler import PredictPlan
from retinanet.data.torch_loader import TorchLoader
from retinanet.errors import UsageError
from retinanet.preprocess import group_by_canvas

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def without_dali(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)


def test_auto_takes_dali_on_gpus_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(loading, "require_dali", lambda: None)
    assert choose_loader("auto", GPU) == "dali"
    assert choose_loader("auto", CPU) == "torch"
    assert [choose_loader("torch", device) for device in (CPU, GPU)] == ["torch", "torch"]
    assert [choose_loader("dali", device) for device in (CPU, GPU)] == ["dali", "dali"]


def test_where_dali_is_missing_auto_does_without(without_dali):
    assert choose_loader("auto", GPU) == "torch"


def test_dali_that_is_asked_for_and_missing_is_one_sentence(without_dali):
    for device in (CPU, GPU):
        with pytest.raises(UsageError, match=r"--loader dali needs nvidia .*: pip install 'retinanet\[dali\]'"):
            choose_loader("dali", device)


def test_the_command_says_it_before_it_begins(without_dali, train, retinanet, trained, shapes, tmp_path):
    for done in (
        train(tmp_path / "model.pth", iters=1, loader="dali"),
        retinanet("infer", trained, **shapes.held_out, output=tmp_path / "detections.json", loader="dali"),
    ):
        assert done.code == 2
        assert "pip install 'retinanet[dali]'" in done.sentence
    assert not (tmp_path / "model.pth").exists()


@pytest.mark.parametrize("kind", ["auto", "torch"])
def test_the_torch_loader_gets_what_it_is_given(shapes, kind):
    data = read_annotations(shapes.annotations, shapes.images)
    plan = PredictPlan(*group_by_canvas(data.sizes, 64, 96), 4)
    options = {"workers": 0, "start_step": 1, "total_steps": 3}
    found = make_loader(kind, CPU, data, plan, 64, 96, **options)
    assert isinstance(found, TorchLoader)
    expected = list(TorchLoader(data, plan, 64, 96, **options))
    assert len(found) == len(expected) == 2
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_both_loaders_train_and_detect(train, retinanet, shapes, tmp_path):
    pytest.importorskip("nvidia.dali")
    for loader in ("dali", "torch"):
        model = tmp_path / loader / "model.pth"
        model.parent.mkdir()
        assert train(model, **shapes.validation, epochs=1, loader=loader).code == 0
        done = retinanet("infer", model, **shapes.held_out, output=model.with_suffix(".json"), loader=loader)
        assert done.code == 0
