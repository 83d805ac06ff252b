"""Plans are pure functions: every image once an epoch, one canvas a batch, slices that make the whole."""

import itertools
import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.data.sampler import BLANK, PredictPlan, TrainPlan

CANVASES = [(64, 96), (96, 64), (96, 96)]

groups = st.lists(st.integers(0, 2), min_size=1, max_size=60).map(np.array)


@given(groups, st.integers(1, 9), st.integers(0, 2**40), st.integers(0, 3))
@settings(deadline=None)
def test_every_image_once_an_epoch_among_its_own(canvas_of_image, batch, seed, epoch):
    plan = TrainPlan(canvas_of_image, CANVASES, batch, seed)
    assert plan.steps_per_epoch == sum(-(-count // batch) for count in np.bincount(canvas_of_image))
    seen, pixels = [], 0
    for step in range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch):
        planned = plan.batch(step)
        assert planned.epoch == epoch
        assert planned.indices.shape == (batch,)
        pixels += batch * planned.canvas[0] * planned.canvas[1]
        images = planned.indices[planned.indices != BLANK]
        assert len(images) > 0
        assert {CANVASES[canvas] for canvas in canvas_of_image[images]} == {planned.canvas}
        seen += images.tolist()
    assert sorted(seen) == list(range(len(canvas_of_image)))
    assert plan.pixels_per_epoch == pixels


@given(groups, st.integers(1, 5), st.integers(1, 4))
@settings(deadline=None)
def test_ranks_share_the_batch_and_its_blanks(canvas_of_image, per_rank, world):
    plan = TrainPlan(canvas_of_image, CANVASES, per_rank * world, seed=1)
    for step in range(plan.steps_per_epoch):
        whole = plan.batch(step)
        slices = [whole.for_rank(rank, world) for rank in range(world)]
        assert {part.canvas for part in slices} == {whole.canvas}
        assert sorted(np.concatenate([part.indices for part in slices])) == sorted(whole.indices)
        filled = [int((part.indices != BLANK).sum()) for part in slices]
        assert max(filled) - min(filled) <= 1


def test_any_step_alone_equals_the_step_of_a_whole_run():
    canvas_of_image = np.random.default_rng(0).integers(0, 3, 50)
    plan = TrainPlan(canvas_of_image, CANVASES, 4, seed=3)
    run = [plan.batch(step) for step in range(3 * plan.steps_per_epoch)]
    for step in np.random.default_rng(1).permutation(len(run)):
        for other in (plan, TrainPlan(canvas_of_image, CANVASES, 4, seed=3), pickle.loads(pickle.dumps(plan))):
            planned = other.batch(int(step))
            assert planned.canvas == run[step].canvas
            assert planned.epoch == run[step].epoch
            np.testing.assert_array_equal(planned.indices, run[step].indices)


def test_epochs_and_seeds_shuffle_images_and_batches():
    plans = {seed: TrainPlan(np.repeat([0, 1, 2], 40), CANVASES, 4, seed) for seed in (0, 1)}
    epochs = [
        [plan.batch(epoch * plan.steps_per_epoch + i) for i in range(plan.steps_per_epoch)]
        for plan in plans.values()
        for epoch in (0, 1)
    ]
    for a, b in itertools.combinations(epochs, 2):
        assert [plan.indices.tolist() for plan in a] != [plan.indices.tolist() for plan in b]
        assert [plan.canvas for plan in a] != [plan.canvas for plan in b]
    # Not merely batches in another order: images meet different ones.
    assert {frozenset(plan.indices) for plan in epochs[0]} != {frozenset(plan.indices) for plan in epochs[1]}


def test_the_plan_of_a_seed_never_changes():
    """A run that is resumed with a later version must see the same data."""
    plan = TrainPlan(np.array([0, 1, 0, 1, 0, 0, 2]), CANVASES, 2, seed=7)
    assert [plan.batch(step).indices.tolist() for step in range(10)] == [
        [1, 3],
        [0, 5],
        [6, -1],
        [2, 4],
        [3, 1],
        [0, 2],
        [4, 5],
        [6, -1],
        [2, 4],
        [6, -1],
    ]


def test_a_batch_larger_than_the_data_is_filled_with_blanks():
    plan = TrainPlan(np.zeros(3, np.int64), CANVASES, 8, seed=0)
    assert plan.steps_per_epoch == 1
    assert sorted(plan.batch(5).indices) == [BLANK] * 5 + [0, 1, 2]
    assert plan.batch(5).epoch == 5


@given(groups, st.integers(1, 9))
@settings(deadline=None)
def test_prediction_goes_in_order_canvas_by_canvas(canvas_of_image, batch):
    plan = PredictPlan(canvas_of_image, CANVASES, batch)
    planned = [plan.batch(step) for step in range(plan.steps_per_epoch)]
    canvases = [CANVASES.index(part.canvas) for part in planned]
    assert canvases == sorted(canvases)
    everything = np.concatenate([part.indices for part in planned])
    images = everything[everything != BLANK]
    np.testing.assert_array_equal(images, np.argsort(canvas_of_image, kind="stable"))
    for part in planned:
        blank = part.indices == BLANK
        assert blank.tolist() == sorted(blank.tolist())  # at the end
        assert not blank[0]
