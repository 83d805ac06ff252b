"""When batches become mosaics, of which pictures, and that runs with them stop, resume and end as they should."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from step_cases import DATA

from command_line import Command, Shapes, assert_same, checkpoint, metric_rows
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


@pytest.mark.parametrize("images", [1, 2, 3])
def test_few_images_repeat(data: CocoData, batches: list[Batch], images: int) -> None:
    with_objects = (batches[0].labels >= 0).any(dim=1)
    batch = Batch(*(tensor[with_objects][:images] for tensor in batches[0]))
    found = Mosaic(1.0, 0, 10, data, COLOUR)(batch, 0)
    assert found.images.shape == batch.images.shape
    used, before = (found.labels >= 0).sum(dim=1), (batch.labels >= 0).sum(dim=1)
    assert used.sum() == 4 * before.sum()
    assert len(before) == images
    if images == 1:
        height, width = (side // 2 for side in batch.images.shape[2:])
        tiles = found.images[0].unfold(1, height, height).unfold(2, width, width).flatten(1, 2)  # [3, 4, h, w]
        assert all(tiles[:, 0].equal(tiles[:, other]) for other in (1, 2, 3))


def test_a_batch_of_blanks_stays_one(data: CocoData, batches: list[Batch]) -> None:
    first = batches[0]
    blank = first._replace(
        images=torch.zeros_like(first.images),
        image_sizes=torch.zeros_like(first.image_sizes),
        boxes=torch.zeros_like(first.boxes),
        labels=torch.full_like(first.labels, NO_LABEL),
        image_ids=torch.full_like(first.image_ids, -1),
    )
    assert_same(tuple(Mosaic(1.0, 0, 10, data, COLOUR)(blank, 0)), tuple(blank))


@pytest.mark.parametrize(
    ("annotated", "ids", "slots"),
    [
        ([8, 8, 8, 8, 8], [50, 10, 30, 20, 40], 32),
        ([9, 8, 8, 8, 8], [50, 10, 30, 20, 40], 64),
        ([33, 1, 1, 1, 1], [10, 20, 40, 50], 32),  # the full image, of id 30, is not among them
        ([33, 1, 1, 1, 1], [10, 20, -1, 30, 40], 64),
        ([33, 1, 1, 1, 1], [30, -1], 256),  # four times in one mosaic
    ],
)
def test_slots_hold_what_the_fullest_mosaic_may_have(annotated: list[int], ids: list[int], slots: int) -> None:
    """Of a data set whose images, in its order, have so many annotations each."""
    data = CocoData.__new__(CocoData)
    in_order = [30, 10, 50, 20, 40]
    data.__dict__.update(image_ids=np.array(in_order), offsets=np.cumsum([0, *annotated]))
    count, width = len(ids), 64
    labels = torch.full((count, width), NO_LABEL)
    for slot, image_id in enumerate(ids):
        labels[slot, : annotated[in_order.index(image_id)] if image_id >= 0 else 0] = 1
    batch = Batch(
        torch.zeros(count, 32, 32, 3, dtype=torch.uint8).permute(0, 3, 1, 2),
        torch.tensor([[32, 32] if image_id >= 0 else [0, 0] for image_id in ids]),
        torch.tensor([4.0, 4, 20, 20]).repeat(count, width, 1),
        labels,
        torch.zeros(count, width, dtype=torch.bool),
        torch.tensor(ids),
        torch.tensor([[1.0, 1, 0, 0]] * count),
    )
    found = Mosaic(1.0, 0, 10, data, COLOUR)(batch, 0)
    assert found.labels.shape == (count, slots)
    assert (found.labels >= 0).sum() == 4 * (labels >= 0).sum()


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


@pytest.mark.slow
def test_two_processes_learn_from_mosaics_with_a_broken_image(
    train: Command, own_shapes: Shapes, tmp_path: Path
) -> None:
    next(own_shapes.images.iterdir()).write_bytes(b"no picture")
    options = {**own_shapes.validation, "batch": 5, "mosaic": 0.7, "epochs": 2, "devices": 2}
    model = tmp_path / "model.pth"
    done = train(model, data=own_shapes, **options)
    assert done.code == 0, done.err
    losses = [float(row["class_loss"]) for row in metric_rows(model) if row["class_loss"]]
    assert losses
    assert all(map(math.isfinite, losses))
    problems = (tmp_path / "model.problems.tsv").read_text().splitlines()
    assert sum("unusable image" in line for line in problems) == 1


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
