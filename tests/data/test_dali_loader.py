"""DALI's loader beside PyTorch's: the same pictures but for rounding, and all else the same bit for bit."""

import dataclasses
import gc
import itertools
import threading
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.data import dali_pool, encoded
from retinanet.data.annotations import CocoData, FlatStrings
from retinanet.data.augment import Augment
from retinanet.data.coco import read_annotations
from retinanet.data.dali_loader import DaliLoader
from retinanet.data.preparation import Preparation
from retinanet.data.sampler import PredictPlan, TrainPlan
from retinanet.data.torch_loader import TorchLoader
from retinanet.errors import DataError
from retinanet.ops.recolour import recolour_
from retinanet.preprocess import group_by_canvas

pytest.importorskip("nvidia.dali")

RESIZE, MAX_SIZE = 48, 80
AUGMENT = Augment(0.5, (40, 60))
COLOURED = Augment(0.5, (40, 60), colour_jitter=0.4)
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("pipelines_made")


def data_in(source, folder=None):
    data = read_annotations(source.with_suffix(".json"), source)
    return dataclasses.replace(data, images_dir=folder or source)


def loaders(
    data, augment=AUGMENT, batch=4, steps=None, workers=2, resize=RESIZE, max_size=MAX_SIZE, device=CPU, **slices
):
    """DALI's and PyTorch's, of the same data."""
    canvases = group_by_canvas(data.sizes, resize, max_size)
    plan = TrainPlan(*canvases, batch, seed=0) if augment else PredictPlan(*canvases, batch)
    steps = range(plan.steps_per_epoch) if steps is None else steps
    dali = DaliLoader(Preparation(data, plan, resize, max_size, augment, 5, **slices), steps, workers, device)
    torchs = TorchLoader(
        data, plan, resize, max_size, augment, seed=5, start_step=steps.start, total_steps=steps.stop, **slices
    )
    return dali, torchs


def assert_same_views(found, expected, border=0):
    """All equal but the images, which may differ by what rounding and JPEG decoders do.

    A `border` may differ by more: where a filter reaches beyond the picture, DALI repeats the last pixels while PyTorch
    leaves them out.
    """
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        for name in ours._fields[1:]:
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert ours.images.shape == theirs.images.shape
        assert ours.images.is_contiguous(memory_format=torch.channels_last)
        for image, other, (height, width) in zip(ours.images, theirs.images, ours.image_sizes.tolist(), strict=True):
            assert not image[:, height:].any()
            assert not image[:, :, width:].any()
            if height:
                apart = (image[:, :height, :width].int() - other[:, :height, :width].int()).abs()
                assert apart.float().mean() <= 1
                apart = apart[:, border : height - border, border : width - border]
                assert (apart <= 8).float().mean() >= 0.999


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("augment", [None, Augment(0), Augment(1), AUGMENT])
def test_it_shows_what_pytorchs_loader_shows(source, augment):
    dali, torchs = loaders(data_in(source), augment, steps=None if augment is None else range(12))
    assert_same_views(list(dali), list(torchs))
    assert dali.broken == {}


@pytest.mark.parametrize(("resize", "max_size"), [(17, 23), (40, 60), (133, 200)])
def test_shrunk_unchanged_and_enlarged(source, resize, max_size):
    for augment in (None, Augment(0.5, (resize // 2, resize * 2))):
        dali, torchs = loaders(data_in(source), augment, resize=resize, max_size=max_size)
        assert_same_views(list(dali), list(torchs), border=1 if resize < 40 else 0)


def test_it_recolours_as_pytorchs_loader_does(source, folder, monkeypatch):
    """Pixels that DALI drew, that we drew, and those of a batch that DALI failed on, each by its image's matrix."""
    monkeypatch.setattr(encoded, "is_whole", lambda content, header: True)
    whole = (folder / "00002.jpg").read_bytes()
    (folder / "00002.jpg").write_bytes(whole[: len(whole) // 2])
    Image.open(folder / "00004.jpg").save(folder / "00004.jpg", "png")
    data = data_in(source, folder)
    plain, torchs_plain = loaders(data, AUGMENT, steps=range(12))
    coloured, torchs = loaders(data, COLOURED, steps=range(12))
    for loader, uncoloured in ((coloured, plain), (torchs, torchs_plain)):
        found, expected = list(loader), list(uncoloured)
        for step, batch in enumerate(expected):
            matrices = torchs.preparation.colours(torchs.preparation.batch(step))
            recolour_(batch.images, batch.image_sizes, matrices)
        assert_equal(found, expected)
        assert list(loader.broken) == [str(folder / "00002.jpg")]


def odd_images(folder):
    """Files of many kinds, all of them 60 by 40 as they are displayed; their names."""
    y, x = np.mgrid[:40, :60]
    photo = Image.fromarray(np.stack([x * 4, y * 6, 255 - x * 2 - y * 3], axis=-1).astype(np.uint8))
    photo.save(folder / "usual.jpg")
    photo.save(folder / "whole.jpg", quality=95, subsampling=0)
    photo.save(folder / "wide.jpg", subsampling=1)
    photo.save(folder / "progressive.jpg", progressive=True)
    photo.convert("L").save(folder / "grey.jpg")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.save(folder / "rgb.jpg", keep_rgb=True)
    photo.save(folder / "colour.png")
    photo.convert("RGBA").save(folder / "alpha.png")
    photo.convert("P").save(folder / "palette.png")
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 256).save(folder / "deep.png")
    photo.save(folder / "a.webp")
    photo.save(folder / "a.bmp")
    photo.save(folder / "a.tif")
    (folder / "broken_exif.jpg").write_bytes((folder / "usual.jpg").read_bytes())
    photo.save(folder / "broken_exif.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xffnonsense")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = photo.transpose(Image.Transpose.ROTATE_90) if orientation >= 5 else photo
        stored.save(folder / f"turned{orientation}.jpg", exif=exif)
    usual = (folder / "usual.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(usual[: len(usual) // 2])
    (folder / "cut_and_ended.jpg").write_bytes(usual[: len(usual) // 2] + b"\xff\xd9")
    (folder / "trailing.jpg").write_bytes(usual + b"more")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    return [*sorted(path.name for path in folder.iterdir()), "absent.jpg"]


def test_files_of_every_kind(tmp_path):
    names = odd_images(tmp_path)
    count = len(names)
    data = CocoData(
        source=tmp_path,
        images_dir=tmp_path,
        classes=None,
        image_ids=np.arange(1, count + 1),
        file_names=FlatStrings(names),
        sizes=np.tile([[40, 60]], (count, 1)),
        offsets=np.arange(count + 1),
        annotation_ids=np.arange(count),
        boxes=np.tile([[10.0, 5.0, 30.0, 20.0]], (count, 1)),
        areas=np.full(count, 600.0),
        labels=np.zeros(count, np.int32),
        crowd=np.zeros(count, bool),
        status=np.zeros(count, np.uint8),
    )
    for augment in (None, AUGMENT):
        dali, torchs = loaders(data, augment, batch=5)
        assert_same_views(list(dali), list(torchs))
        assert dali.broken == torchs.broken
        assert {"cut.jpg", "empty.jpg", "text.jpg", "absent.jpg"} <= {name.rpartition("/")[2] for name in dali.broken}
        assert len(dali.broken) <= 5


def test_any_step_can_be_resumed_and_epochs_differ(source):
    data = data_in(source)
    whole = list(loaders(data, COLOURED, steps=range(15))[0])
    assert_equal(list(loaders(data, COLOURED, steps=range(9, 15))[0]), whole[9:])
    views = [batch.transforms[batch.image_ids == 1] for batch in whole if (batch.image_ids == 1).any()]
    assert len(views) >= 2
    assert not torch.equal(views[0], views[1])


@pytest.mark.parametrize("workers", [0, 1, 5])
def test_batches_do_not_depend_on_the_threads(source, workers):
    data = data_in(source)
    assert_equal(list(loaders(data, COLOURED, workers=workers)[0]), list(loaders(data, COLOURED)[0]))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_runs_of_few_steps(source, steps):
    dali, torchs = loaders(data_in(source), steps=range(steps))
    assert len(dali) == steps
    assert_same_views(list(dali), list(torchs))


def test_no_step_at_all(source):
    assert list(loaders(data_in(source), steps=range(3, 3))[0]) == []


def test_ranks_together_load_what_one_process_does(source):
    data = data_in(source)
    whole = list(loaders(data, COLOURED)[0])
    ranks = [list(loaders(data, COLOURED, rank=rank, world=2)[0]) for rank in range(2)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        for name in ("images", "image_sizes", "image_ids", "transforms"):
            expected = getattr(batch, name)
            assert torch.equal(torch.stack([getattr(part, name) for part in parts], 1).flatten(0, 1), expected)


def test_a_file_that_dali_fails_on_costs_one_batch_one_repetition(source, folder, monkeypatch, pipelines_made):
    """The files look whole, so that DALI meets them: it loses its batch, and those that follow on their way."""
    monkeypatch.setattr(encoded, "is_whole", lambda content, header: True)
    for name in ("00002.jpg", "00009.jpg"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    dali, torchs = loaders(data_in(source, folder), steps=range(15))
    assert_same_views(list(dali), list(torchs))
    assert sorted(dali.broken) == [str(folder / name) for name in ("00002.jpg", "00009.jpg")]
    # Later epochs know the files; batches that were on their way with one of them may fail once more.
    assert 2 <= len(pipelines_made) <= 5


def test_another_error_of_dali_is_not_taken_for_a_broken_file(source, monkeypatch):
    dali, _ = loaders(data_in(source))

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    batches = iter(dali)
    next(batches)
    monkeypatch.setattr("nvidia.dali.Pipeline.share_outputs", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(batches)


def test_no_usable_image_at_all_is_an_error(source, folder):
    for path in folder.iterdir():
        path.write_bytes(b"nothing")
    dali, _ = loaders(data_in(source, folder), steps=range(100))
    with pytest.raises(DataError, match=r"None of the \d+ images could be used; the first: .* is not an image"):
        list(itertools.islice(dali, dali.preparation.plan.steps_per_epoch))


def test_a_size_that_is_not_the_annotated_one_is_broken_in_training_only(source, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(source / "00001.jpg") as photo:
        photo.save(folder / "00001.jpg", exif=exif)
    for augment, broken in ((AUGMENT, [str(folder / "00001.jpg")]), (None, [])):
        dali, torchs = loaders(data_in(source, folder), augment)
        assert_same_views(list(dali), list(torchs))
        assert list(dali.broken) == broken


def test_leaving_early_ends_the_threads(source):
    before = threading.active_count()
    batches = iter(loaders(data_in(source), steps=range(1000))[0])
    next(batches)
    assert any(thread.name.startswith("read") for thread in threading.enumerate())
    del batches
    assert not any(thread.name.startswith("read") for thread in threading.enumerate())
    assert threading.active_count() <= before + 1


@pytest.mark.parametrize("steps", [2, 1000])
def test_pipelines_go_without_a_collection_of_garbage(source, folder, monkeypatch, steps):
    """Which may happen in a process forked later, where a pipeline's end is a crash: its threads are not there."""
    monkeypatch.setattr(encoded, "is_whole", lambda content, header: True)
    for path in sorted(folder.iterdir())[::2]:
        path.write_bytes(path.read_bytes()[:-200])
    pipelines = []

    class Known(dali_pool.DaliPipeline):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            pipelines.append(weakref.ref(self._pipeline))

    monkeypatch.setattr(dali_pool, "DaliPipeline", Known)
    dali, _ = loaders(data_in(source, folder), steps=range(steps))
    gc.disable()
    try:
        assert len(list(itertools.islice(dali, 3))) == min(steps, 3)
        assert len(pipelines) > 1
        assert [pipeline() for pipeline in pipelines] == [None] * len(pipelines)
    finally:
        gc.enable()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(source, folder):
    """Batches lie there, ids here; a truncated file, which a GPU's decoder takes for whole, is as broken as ever."""
    whole = (folder / "00002.jpg").read_bytes()
    (folder / "00002.jpg").write_bytes(whole[: len(whole) // 2])
    device = torch.device("cuda", 0)
    dali, torchs = loaders(data_in(source, folder), steps=range(15), device=device)
    found = list(dali)
    assert [tensor.device for tensor in found[0]] == [device] * 5 + [CPU, device]
    assert_same_views([batch.to(CPU) for batch in found], list(torchs))
    coloured, torchs = loaders(data_in(source, folder), COLOURED, steps=range(15), device=device)
    for ours, theirs in zip(coloured, torchs, strict=True):
        # Matrices of strength 0.4 enlarge what differs by at most 4; others' would be tens of greys away.
        assert (ours.images.cpu().int() - theirs.images.int()).abs().float().mean((1, 2, 3)).max() <= 4
