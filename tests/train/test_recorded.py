"""Steps whose gradients are replayed are the same steps; when they are recorded, and when not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from step_cases import make_step, state_of
from torch import Tensor

from command_line import assert_same
from retinanet.model.compiling import compile_blocks
from retinanet.model.criterion import Criterion
from retinanet.train.recorded import WARM_UP, RecordedGradients
from retinanet.train.step import TrainStep
from retinanet.types import Batch


class Recorder:
    """Stands in for the one of GPUs: what it launches writes into the tensors of the recording, as a graph does."""

    def __init__(self, step: TrainStep, *, room: bool = True) -> None:
        self.step = step
        self.room = room
        self.recorded = self.launched = 0

    def has_room(self) -> bool:
        return self.room

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        sums, gradients = work(), [parameter.grad for parameter in self.step.parameters]

        def launch() -> None:
            self.launched += 1
            sums.copy_(work())
            for mine, parameter in zip(gradients, self.step.parameters, strict=True):
                if mine is not None and parameter.grad is not None:
                    mine.copy_(parameter.grad)
                parameter.grad = None  # only the recording's count

        return launch, sums


def recording_step(**options: bool) -> tuple[TrainStep, Recorder]:
    step = make_step(weights="pretrained")
    recorder = Recorder(step, **options)
    step.gradients = RecordedGradients(step.own_gradients, step.parameters, recorder)  # type: ignore[arg-type]
    return step, recorder


def alike(batch: Batch, count: int) -> list[Batch]:
    """Batches of its shape, with other pictures."""
    return [batch._replace(images=batch.images.roll(3 * number, dims=-1)) for number in range(count)]


def smaller(batch: Batch) -> Batch:
    return Batch(*(tensor[:2] for tensor in batch))


def test_replayed_steps_move_the_weights_alike(batches: list[Batch]) -> None:
    """Of two shapes, by turns; each batch another one."""
    plain, (step, recorder) = make_step(weights="pretrained"), recording_step()
    shown = [batch for one in alike(batches[0], WARM_UP + 3) for batch in (one, smaller(one))]
    for number, batch in enumerate(shown):
        rate = 0.001 * (number + 1)
        assert_same(step(batch, rate)._asdict(), plain(batch, rate)._asdict())
    assert_same(state_of(step), state_of(plain))
    assert recorder.recorded == 2
    assert recorder.launched == len(shown) - 2 * WARM_UP


@pytest.mark.parametrize("room", [True, False])
def test_what_cannot_be_recorded_runs_as_it_is(batches: list[Batch], room: bool) -> None:
    class Refusing(Recorder):
        def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
            super().__call__(work)
            raise RuntimeError("operation not permitted when stream is capturing")

    plain, (step, _) = make_step(weights="pretrained"), recording_step()
    recorder = Refusing(step, room=room)
    step.gradients = RecordedGradients(step.own_gradients, step.parameters, recorder)  # type: ignore[arg-type]
    for batch in alike(batches[0], WARM_UP + 3):
        assert_same(step(batch, 0.01)._asdict(), plain(batch, 0.01)._asdict())
    assert_same(state_of(step), state_of(plain))
    assert recorder.recorded == int(room)  # and is not tried again
    assert recorder.launched == 0


def test_graphs_give_way_to_a_batch_for_which_they_leave_no_memory(batches: list[Batch]) -> None:
    plain, (step, recorder) = make_step(weights="pretrained"), recording_step()
    compute, full = step.own_gradients, []

    def scarce(batch: Batch) -> Tensor:
        if full and len(batch.images) == 2:
            full.pop()
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute(batch)

    step.gradients = RecordedGradients(scarce, step.parameters, recorder)  # type: ignore[arg-type]
    one, *others = alike(batches[0], 2 * WARM_UP + 3)
    for batch in (*others[: WARM_UP + 1], smaller(one), *others[WARM_UP + 1 :]):
        if len(batch.images) == 2:
            full.append(True)
        assert_same(step(batch, 0.01)._asdict(), plain(batch, 0.01)._asdict())
    assert not full
    assert (recorder.recorded, recorder.launched) == (1, 1)
    full.append(True)
    with pytest.raises(torch.OutOfMemoryError):
        step(smaller(batches[0]), 0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("weights", ["pretrained", "none"])  # batch norm frozen, live
def test_a_gpu_replays_what_it_computes(batches: list[Batch], compiled: bool, weights: str) -> None:
    plain, step = (make_step(weights=weights, precision="bf16", device="cuda", parts=2, ema=0.9) for _ in range(2))
    plain.gradients = plain.own_gradients
    if compiled:
        for one in (plain, step):
            compile_blocks(one.network)
            one.criterion = Criterion(one.network, compile=True)
    for batch in alike(batches[0], WARM_UP + 3):
        torch.testing.assert_close(step(batch, 0.001), plain(batch, 0.001), rtol=0.02, atol=1e-3)
    assert isinstance(step.gradients, RecordedGradients)
    assert len(step.gradients._replays) == 1
    for found, expected in zip(step.network.state_dict().values(), plain.network.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-2)
