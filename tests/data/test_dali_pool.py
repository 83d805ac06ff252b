"""Pipelines that are started early and used again show what new ones do, and are lent to one at a time."""

import pytest
import torch

from retinanet.config import PredictConfig
from retinanet.data import dali_pool
from retinanet.data.annotations import CocoData
from retinanet.data.coco import read_annotations
from retinanet.data.dali_loader import DaliLoader
from retinanet.data.loading import prepare_loader
from retinanet.data.preparation import Preparation
from retinanet.data.sampler import PredictPlan
from retinanet.predict.work import prepare_work
from retinanet.preprocess import group_by_canvas

pytest.importorskip("nvidia.dali")

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("pipelines_made")


def loader(data: CocoData, batch: int = 4, steps: int | None = None) -> DaliLoader:
    plan = PredictPlan(*group_by_canvas(data.sizes, 48, 80), batch)
    return DaliLoader(Preparation(data, plan, 48, 80, None, 5), range(steps or plan.steps_per_epoch), 2, CPU)


@pytest.fixture
def data(source):
    return read_annotations(source.with_suffix(".json"), source)


def test_the_next_loader_uses_it_again_and_shows_the_same(data, pipelines_made):
    first = [batch.images.clone() for batch in loader(data)]
    assert len(first) >= 3
    for _ in range(2):
        for expected, batch in zip(first, loader(data), strict=True):
            assert torch.equal(batch.images, expected)
    assert pipelines_made == [(4, 2, CPU)]


def test_two_loaders_at_a_time_have_one_each(data, pipelines_made):
    list(loader(data))
    pairs = list(zip(loader(data), loader(data), strict=True))
    assert all(torch.equal(one.images, two.images) for one, two in pairs)
    assert pipelines_made == [(4, 2, CPU)] * 2


def test_one_that_was_left_early_or_asked_for_too_much_is_not_used_again(data, pipelines_made):
    batches = iter(loader(data))
    next(batches)
    del batches
    list(loader(data, steps=2))
    assert len(list(loader(data))) >= 3
    assert pipelines_made == [(4, 2, CPU)] * 3


def test_only_so_many_are_kept(data, pipelines_made):
    for batch in (1, 2, 4, 1, 4):
        list(loader(data, batch))
    assert pipelines_made == [(batch, 2, CPU) for batch in (1, 2, 4, 1)]


def test_one_that_was_begun_early_is_taken(data, pipelines_made):
    prepare_loader("dali", CPU, 4, workers=2)
    prepare_loader("dali", CPU, 4, workers=2)
    list(loader(data))
    assert pipelines_made == [(4, 2, CPU)]


def test_what_it_fails_with_is_told_to_who_takes_it(data, monkeypatch):
    def fail(*_):
        raise RuntimeError("no room")

    monkeypatch.setattr(dali_pool, "DaliPipeline", fail)
    prepare_loader("dali", CPU, 4, workers=2)
    with pytest.raises(RuntimeError, match="no room"):
        list(loader(data))


def test_work_on_a_checkpoint_begins_with_it(tmp_path, pipelines_made):
    config = PredictConfig(device="cpu", loader="dali", workers=2, batch=4)
    prepare_work(tmp_path / "model.onnx", config, 1)
    prepare_work(tmp_path / "model.pth", config, 1)
    assert dali_pool.take(4, 2, CPU).key == (4, 2, CPU)
    assert pipelines_made == [(4, 2, CPU)]
