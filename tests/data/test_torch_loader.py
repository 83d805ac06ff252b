"""The loader: the same batches for any number of workers, and no end by a broken image."""

import dataclasses
import itertools
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.data.augment import Augment
from retinanet.data.coco import read_annotations
from retinanet.data.folder import images_only
from retinanet.data.images import read_image
from retinanet.data.sampler import BatchPlan, PredictPlan, TrainPlan
from retinanet.data.torch_loader import BatchMaker, TorchLoader
from retinanet.errors import DataError
from retinanet.ops.recolour import recolour_
from retinanet.preprocess import fit_to_canvas, group_by_canvas, restore_boxes

RESIZE, MAX_SIZE = 48, 80
AUGMENT = Augment(0.5, (40, 60))
COLOURED = Augment(0.5, (40, 60), colour_jitter=0.4)


def load(annotations, images, batch=4, **options):
    data = read_annotations(annotations, images)
    plan = TrainPlan(*group_by_canvas(data.sizes, RESIZE, MAX_SIZE), batch, seed=0)
    return TorchLoader(data, plan, RESIZE, MAX_SIZE, **options)


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("augment", [AUGMENT, COLOURED])
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_workers(source, workers, augment):
    annotations = source.with_suffix(".json")
    plain = load(annotations, source, augment=augment, seed=5, total_steps=12)
    assert len(plain) == 12
    found = list(load(annotations, source, augment=augment, seed=5, total_steps=12, workers=workers))
    assert_equal(found, list(plain))
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in found)


def test_the_work_can_be_sent_to_a_fresh_process(source):
    """As spawn and forkserver do."""
    loader = load(source.with_suffix(".json"), source, augment=AUGMENT)
    maker = pickle.loads(pickle.dumps(loader._batches.dataset))
    assert_equal([maker[0][0]], [next(iter(loader))])


@pytest.mark.parametrize("augment", [AUGMENT, COLOURED])
def test_any_step_can_be_resumed_and_epochs_differ(source, augment):
    annotations = source.with_suffix(".json")
    whole = list(load(annotations, source, augment=augment, total_steps=15))
    assert_equal(list(load(annotations, source, augment=augment, start_step=9, total_steps=15)), whole[9:])
    views = [batch.transforms[batch.image_ids == 1] for batch in whole if (batch.image_ids == 1).any()]
    assert len(views) >= 2
    assert not torch.equal(views[0], views[1])


def test_colours_are_drawn_anew_each_epoch_and_nothing_else_changes(source):
    """Each image has a matrix of its own, applied to the view without it; the canvas's rest stays black."""
    annotations, drawn = source.with_suffix(".json"), {}
    plain = load(annotations, source, augment=AUGMENT, seed=5, total_steps=12)
    coloured = load(annotations, source, augment=COLOURED, seed=5, total_steps=12)
    for step, (batch, expected) in enumerate(zip(coloured, plain, strict=True)):
        for name in batch._fields[1:]:
            assert torch.equal(getattr(batch, name), getattr(expected, name)), name
        assert not torch.equal(batch.images, expected.images)
        plan = coloured.preparation.batch(step)
        matrices = coloured.preparation.colours(plan)
        recolour_(expected.images, expected.image_sizes, matrices)
        assert torch.equal(batch.images, expected.images)
        for index, matrix in zip(plan.indices.tolist(), matrices, strict=True):
            if index >= 0:
                drawn[index, plan.epoch] = tuple(matrix.flatten().tolist())
    assert {epoch for _, epoch in drawn} == {0, 1, 2}
    assert len(set(drawn.values())) == len(drawn)


def test_colours_and_views_of_an_image_have_nothing_to_do_with_each_other(source):
    preparation = load(source.with_suffix(".json"), source, augment=COLOURED, seed=5).preparation
    size = tuple(preparation.data.sizes[3].tolist())
    flipped_and_brighter = 0
    for epoch in range(200):
        plan = BatchPlan((64, 96), np.array([3]), epoch)
        (matrix,) = preparation.colours(plan)
        brightness = matrix[0, 3] / 128 + matrix[0, :3].sum()
        flipped_and_brighter += preparation.view(3, size, plan).flip == bool(brightness > 1)
    assert 70 < flipped_and_brighter < 130


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_on_a_cpu_workers_give_them(source, device):
    annotations, device = source.with_suffix(".json"), torch.device(device)
    loader = load(annotations, source, augment=COLOURED, seed=5, workers=1, device=device)
    assert_equal(list(loader), list(load(annotations, source, augment=COLOURED, seed=5)))
    assert loader._batches.dataset[0].colours is None


def test_workers_leave_the_colours_to_a_gpu(source):
    loader = load(source.with_suffix(".json"), source, augment=COLOURED, seed=5)
    made = BatchMaker(loader.preparation, torch.device("cuda", 0))[0]
    plain = next(iter(load(source.with_suffix(".json"), source, augment=AUGMENT, seed=5)))
    assert torch.equal(made.batch.images, plain.images)
    assert_equal([made.on(torch.device("cpu")).batch], [next(iter(loader))])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("augment", [AUGMENT, COLOURED])
def test_a_gpu_gets_the_same_batches_bit_for_bit(source, augment):
    annotations, device = source.with_suffix(".json"), torch.device("cuda", 0)
    found = list(load(annotations, source, augment=augment, seed=5, total_steps=12, workers=2, device=device))
    assert {batch.images.device for batch in found} == {device}
    expected = load(annotations, source, augment=augment, seed=5, total_steps=12)
    assert_equal([batch.to(torch.device("cpu")) for batch in found], list(expected))


def test_the_colours_of_an_image_do_not_depend_on_its_batch_or_on_other_options(source):
    data = read_annotations(source.with_suffix(".json"), source)
    found = {}
    for batch, augment in ((4, COLOURED), (3, Augment(0.1, None, colour_jitter=0.4))):
        loader = load(source.with_suffix(".json"), source, batch, augment=augment, seed=5)
        for step in loader.steps:
            plan = loader.preparation.batch(step)
            for index, matrix in zip(plan.indices.tolist(), loader.preparation.colours(plan), strict=True):
                assert torch.equal(found.setdefault(index, matrix), matrix)
    assert set(found) == {-1, *range(len(data))}


def test_iterating_leaves_the_runs_random_state_alone(source):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(load(source.with_suffix(".json"), source, augment=AUGMENT)))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_image_comes_as_prediction_prepares_it_with_its_boxes(source):
    data = read_annotations(source.with_suffix(".json"), source)
    plan = PredictPlan(*group_by_canvas(data.sizes, RESIZE, MAX_SIZE), batch=4)
    seen = []
    for batch in TorchLoader(data, plan, RESIZE, MAX_SIZE):
        originals = restore_boxes(batch.boxes, batch.transforms)
        for slot in torch.nonzero(batch.image_ids >= 0)[:, 0]:
            index = data.image_ids.tolist().index(batch.image_ids[slot])
            seen.append(index)
            expected = fit_to_canvas(read_image(data.image_path(index)), RESIZE, MAX_SIZE, batch.images.shape[2:])
            assert torch.equal(batch.images[slot], expected.image)
            assert tuple(batch.image_sizes[slot].tolist()) == expected.size
            corners, labels, _ = data.training_boxes(index)
            torch.testing.assert_close(originals[slot, : len(labels)], torch.from_numpy(corners), rtol=0, atol=1e-3)
            assert batch.labels[slot, : len(labels)].tolist() == labels.tolist()
            assert (batch.labels[slot, len(labels) :] == -1).all()
    assert sorted(seen) == list(range(len(data)))


@pytest.mark.parametrize("augment", [AUGMENT, COLOURED])
def test_ranks_together_load_what_one_process_does(source, augment):
    annotations = source.with_suffix(".json")
    whole = list(load(annotations, source, augment=augment))
    ranks = [list(load(annotations, source, augment=augment, rank=rank, world=2)) for rank in range(2)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        for name in ("images", "image_sizes", "image_ids", "transforms"):
            expected = getattr(batch, name)
            assert torch.equal(torch.stack([getattr(part, name) for part in parts], 1).flatten(0, 1), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_become_blank_slots_and_are_listed(source, folder, workers):
    (folder / "00002.jpg").write_bytes(b"")
    whole = (folder / "00005.jpg").read_bytes()
    (folder / "00005.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "00007.jpg").unlink()
    data = read_annotations(source.with_suffix(".json"), source)
    data = dataclasses.replace(data, images_dir=folder)  # the files broke after the start
    plan = TrainPlan(*group_by_canvas(data.sizes, RESIZE, MAX_SIZE), 4, seed=0)
    loader = TorchLoader(data, plan, RESIZE, MAX_SIZE, AUGMENT, workers=workers, total_steps=3 * plan.steps_per_epoch)
    batches = list(loader)
    assert sorted(loader.broken) == [str(folder / f"0000{number}.jpg") for number in (2, 5, 7)]
    assert "00007.jpg does not exist" in loader.broken[str(folder / "00007.jpg")]
    ids = torch.cat([batch.image_ids for batch in batches])
    assert sorted(set(ids.tolist())) == [-1, *(number for number in range(1, 15) if number not in (3, 6, 8))]
    for batch in batches:
        blank = batch.image_ids == -1
        assert not batch.image_sizes[blank].any()
        assert not batch.images[blank].any()
        assert (batch.labels[blank] == -1).all()


def test_a_size_that_is_not_the_annotated_one_is_broken_in_training_only(source, folder):
    """Such as a photo whose boxes were drawn on it before its EXIF orientation was applied."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(source / "00001.jpg") as photo:
        photo.save(folder / "00001.jpg", exif=exif)
    training = load(source.with_suffix(".json"), folder, augment=AUGMENT)
    assert len(list(training)) == len(training)
    assert list(training.broken) == [str(folder / "00001.jpg")]
    assert "should be 60×40 as annotated, but is displayed as 40×60" in training.broken[str(folder / "00001.jpg")]
    prediction = load(source.with_suffix(".json"), folder)
    ids = torch.cat([batch.image_ids for batch in prediction])
    assert 2 in ids
    assert not prediction.broken


@pytest.mark.parametrize("total_steps", [3, 100])
def test_no_usable_image_at_all_is_an_error(source, folder, total_steps):
    for path in folder.iterdir():
        path.write_bytes(b"nothing")
    loader = load(source.with_suffix(".json"), folder, augment=AUGMENT, total_steps=total_steps)
    one_epoch = itertools.islice(loader, loader.preparation.plan.steps_per_epoch)
    with pytest.raises(DataError, match=r"None of the \d+ images could be used; the first: .* is not an image"):
        list(one_epoch)


def test_images_without_annotations(source):
    data = images_only(source)
    plan = PredictPlan(*group_by_canvas(data.sizes, RESIZE, MAX_SIZE), batch=5)
    batches = list(TorchLoader(data, plan, RESIZE, MAX_SIZE))
    assert sorted(torch.cat([batch.image_ids for batch in batches]).tolist())[-14:] == list(range(1, 15))
    assert all((batch.labels == -1).all() for batch in batches)


def test_a_very_wide_picture_and_a_single_pixel(tmp_path):
    for name, size in (("wide.png", (20_000, 4)), ("pixel.png", (1, 1)), ("usual.png", (60, 40))):
        Image.new("RGB", size, (200, 100, 50)).save(tmp_path / name)
    data = images_only(tmp_path)
    plan = PredictPlan(*group_by_canvas(data.sizes, RESIZE, MAX_SIZE), batch=2)
    batches = list(TorchLoader(data, plan, RESIZE, MAX_SIZE))
    sizes = {
        int(i): size.tolist() for batch in batches for i, size in zip(batch.image_ids, batch.image_sizes, strict=True)
    }
    assert sizes[3] == [1, 80]
    assert sizes[1] == [48, 48]
    assert sizes[2] == [48, 72]
