"""When batches become mosaics, of which pictures, and that runs with them stop, resume and end as they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from step_cases import DATA

from command_line import Command, Shapes, assert_same, checkpoint
from retinanet.config import TrainConfig
from retinanet.data.annotations import CocoData
from retinanet.data.augment import Augment
from retinanet.data.coco import read_annotations
from retinanet.data.torch_loader import TorchLoader
from retinanet.model.checkpoint import create_record
from retinanet.train.mosaic import Mosaic, draw_tiles, with_mosaics
from retinanet.train.run import training_plan
from retinanet.train.step import TrainStep
from retinanet.types import NO_LABEL, Batch

COLOUR = torch.tensor([124, 116, 104], dtype=torch.uint8)


@pytest.fixture(scope="module")
def data(shapes: Shapes) -> CocoData:
    return read_annotations(shapes.annotations, shapes.images)


@pytest.mark.parametrize(
    "image_ids", [[5], [5, 6], [5, 6, 7], [5, 6, 7, 8], [0, 3, -1, -1], [-1, 9, -1, 1, 2, 4, 8], list(range(16)), [-1]]
)
@pytest.mark.parametrize("seed", range(5))
def test_each_picture_comes_once_in_each_corner(image_ids: list[int], seed: int) -> None:
    ids = np.array(image_ids)
    tiles = draw_tiles(ids, np.random.default_rng(seed))
    present = np.flatnonzero(ids >= 0).tolist()
    assert tiles.shape == (len(ids), 4)
    assert tiles[:, 0].tolist() == list(range(len(ids)))
    for slot, chosen in enumerate(tiles.tolist()):
        if slot in present:
            assert len(set(chosen)) == min(4, len(present))
        else:
            assert chosen == [slot] * 4
    for corner in range(4):
        assert sorted(tiles[present, corner].tolist()) == present


def test_neighbours_change_from_step_to_step() -> None:
    ids = np.arange(8)
    beside = {tuple(draw_tiles(ids, np.random.default_rng(seed))[0].tolist()) for seed in range(20)}
    assert len(beside) > 10


def is_stitched(found: Batch, batch: Batch) -> bool:
    if found is batch:
        return False
    assert not found.images.equal(batch.images)
    return True


def test_as_many_batches_as_asked_for_and_none_in_the_last_quarter(data: CocoData, batches: list[Batch]) -> None:
    total = 400
    for probability, least, most in ((0.0, 0, 0), (0.3, 60, 120), (1.0, 300, 300)):
        mosaic = Mosaic(probability, 0, total, data, COLOUR)
        stitched = [step for step in range(total) if is_stitched(mosaic(batches[0], step), batches[0])]
        assert least <= len(stitched) <= most
        assert all(step < 300 for step in stitched)
    assert stitched == list(range(300))


@pytest.mark.parametrize("total", [1, 2, 3, 5])
def test_short_runs_end_without_mosaics_too(data: CocoData, batches: list[Batch], total: int) -> None:
    mosaic = Mosaic(1.0, 0, total, data, COLOUR)
    assert [is_stitched(mosaic(batches[0], step), batches[0]) for step in range(total)] == [
        step < 0.75 * total for step in range(total)
    ]


def test_a_function_of_seed_and_step_alone(data: CocoData, batches: list[Batch]) -> None:
    torch.manual_seed(0)
    before, batch = torch.get_rng_state(), batches[0]
    copy = Batch(*(tensor.clone() for tensor in batch))
    first, again, other = (Mosaic(0.5, seed, 100, data, COLOUR) for seed in (3, 3, 4))
    for step in reversed(range(75)):
        assert_same(tuple(first(batch, step)), tuple(again(batch, step)))
    assert_same(tuple(batch), tuple(copy))
    assert torch.get_rng_state().equal(before)
    decisions = [[m(batch, step) is batch for step in range(75)] for m in (first, other)]
    assert decisions[0] != decisions[1]


def test_ranks_stitch_in_the_same_steps_each_its_own_images(data: CocoData, batches: list[Batch]) -> None:
    mosaic = Mosaic(0.5, 0, 100, data, COLOUR)
    shares = [Batch(*(tensor[rank::2] for tensor in batches[0])) for rank in (0, 1)]
    for step in range(75):
        decisions = [is_stitched(mosaic(batch, step), batch) for batch in (batches[0], *shares)]
        assert len(set(decisions)) == 1
        if decisions[0]:
            found = [mosaic(batch, step) for batch in shares]
            assert torch.stack([one.image_ids for one in found], dim=1).flatten().equal(batches[0].image_ids)


def test_no_target_is_lost_for_want_of_slots(data: CocoData) -> None:
    plan = training_plan(data, DATA, seed=0)
    loader = TorchLoader(data, plan, DATA.resize, DATA.longest, Augment(0.5), total_steps=6)
    for step, batch in enumerate(loader):
        found = Mosaic(1.0, 0, 100, data, COLOUR)(batch, step)
        sides = batch.boxes[..., 2:] - batch.boxes[..., :2]
        large = (batch.labels >= 0) & (sides >= 2).all(dim=-1)
        assert (found.labels >= 0).sum() == 4 * large.sum()
        assert found.labels.shape[1] == 32  # not 4 * 32: an image has five objects at most


@pytest.mark.parametrize(("boxes", "slots"), [(8, 32), (9, 64), (32, 128), (33, 256)])
def test_slots_hold_what_the_fullest_mosaic_may_have(boxes: int, slots: int) -> None:
    """Each of five images has so many boxes, all of them in the batch."""
    mosaic = Mosaic(1.0, 0, 10, crowded_data(boxes), COLOUR)
    width = 32 if boxes <= 32 else 64
    labels = torch.full((5, width), NO_LABEL)
    labels[:, :boxes] = 1
    batch = Batch(
        torch.zeros(5, 32, 32, 3, dtype=torch.uint8).permute(0, 3, 1, 2),
        torch.tensor([[32, 32]] * 5),
        torch.tensor([4.0, 4, 20, 20]).repeat(5, width, 1),
        labels,
        torch.zeros(5, width, dtype=torch.bool),
        torch.tensor([50, 10, 30, 20, 40]),
        torch.tensor([[1.0, 1, 0, 0]] * 5),
    )
    found = mosaic(batch, 0)
    assert found.labels.shape == (5, slots)
    assert ((found.labels >= 0).sum(dim=1) == 4 * boxes).all()


def crowded_data(boxes: int) -> CocoData:
    """Five images of ids 10 … 50 with so many annotations each; of it all only these numbers are looked at."""
    data = CocoData.__new__(CocoData)
    data.__dict__.update(image_ids=np.array([30, 10, 50, 20, 40]), offsets=np.arange(6) * boxes)
    return data


def test_without_the_option_the_loader_is_what_it_was(data: CocoData) -> None:
    record = create_record(
        data.classes, ("test_resnet",), width=16, weights="none", anchor_scale=4, resize=64, max_size=96
    )
    loader: list[Batch] = []
    assert with_mosaics(loader, TrainConfig(), record, data, start_step=0, total_steps=9) is loader


@pytest.fixture
def stitched_steps(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each step that a command takes, whether it learned from mosaics."""
    found: list[bool] = []
    learn = TrainStep.__call__

    def note(step: TrainStep, batch: Batch, rate: float):
        # By their size the pictures are shown as they are, but for those of mosaics.
        found.append(bool((batch.transforms[batch.image_ids >= 0, 1] < 0.7).all()))
        return learn(step, batch, rate)

    monkeypatch.setattr(TrainStep, "__call__", note)
    return found


def test_a_run_ends_without_mosaics_and_can_be_stopped_anywhere(
    train: Command, shapes: Shapes, tmp_path: Path, stop_after, stitched_steps: list[bool]
) -> None:
    options = {**shapes.validation, "iters": 8, "mosaic": 0.6, "accumulate": 2, "seed": 1}
    (tmp_path / "whole").mkdir()
    whole, stopped = tmp_path / "whole" / "model.pth", tmp_path / "model.pth"
    stop_after(None)
    assert train(whole, **options).code == 0
    of_whole = stitched_steps.copy()
    assert len(of_whole) == 8
    assert set(of_whole[:6]) == {True, False}
    assert not any(of_whole[6:])
    stitched_steps.clear()
    for step in (2, 5):
        stop_after(step)
        assert train(stopped, **options).code == 6
    stop_after(None)
    assert train(stopped, **options).code == 0
    assert stitched_steps == of_whole
    assert_same(checkpoint(stopped), checkpoint(whole))


def test_zero_is_no_mosaics(train: Command, tmp_path: Path, stitched_steps: list[bool]) -> None:
    for name, options in {"without": {}, "zero": {"mosaic": 0}, "all": {"mosaic": 1}}.items():
        assert train(tmp_path / f"{name}.pth", iters=2, **options).code == 0
    assert stitched_steps == [False, False, False, False, True, True]
    assert_same(checkpoint(tmp_path / "zero.pth"), checkpoint(tmp_path / "without.pth"))


def test_what_is_no_probability_is_refused(train: Command, tmp_path: Path) -> None:
    for value in (-0.1, 1.01):
        done = train(tmp_path / "model.pth", mosaic=value)
        assert done.code == 2
        assert "--mosaic" in done.sentence
