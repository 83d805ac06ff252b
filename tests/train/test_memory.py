"""A GPU that is too small: what is proposed does fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from step_cases import make_step

from command_line import Command
from retinanet.train import memory
from retinanet.train.memory import images_that_fit
from retinanet.train.step import TrainStep


@pytest.mark.parametrize("fixed", [0, 300, 4000])
@pytest.mark.parametrize("each", [10, 170, 2000, 9000])
@pytest.mark.parametrize("images", [1, 2, 7, 16, 64])
def test_what_is_said_to_fit_fits_and_is_not_far_from_the_most(fixed: int, each: int, images: int) -> None:
    room = 10_000
    if fixed + images * each <= room:
        images = (room - fixed) // each + 1  # one too many

    def trial(count: int) -> int:
        if fixed + count * each > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return fixed + count * each

    found = images_that_fit(trial, images, room)
    most = max(0, (room - fixed) // each)
    assert 0 <= found <= min(most, images - 1)
    assert found >= min(images - 1, most) // 2


@pytest.mark.parametrize(
    ("fits", "words"),
    [(3, "--batch 3 would fit"), (0, "not even one image fits"), (None, "lower --batch or --resize")],
)
def test_the_sentence_names_what_was_measured(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int | None, words: str
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which 1.06 GiB "
            "is free. Process 7003 has 860.08 MiB memory in use. If reserved but unallocated memory is large try …"
        )

    monkeypatch.setattr(TrainStep, "__call__", fail)
    monkeypatch.setattr(memory, "_measure", lambda *_: fits)
    done = train(tmp_path / "model.pth", iters=1)
    assert done.code == 1
    assert all(
        part in done.sentence for part in ("cpu", "4 images of 64×", "allocate 9.00 GiB", "1.06 GiB is free)", words)
    )


def test_a_trial_leaves_gradients_of_its_images_alone(batches) -> None:
    step = make_step(weights="pretrained", parts=2)
    before = {name: value.clone() for name, value in step.network.state_dict().items()}
    step.own_gradients(batches[0])
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in step.parameters)
    assert all(torch.equal(value, before[name]) for name, value in step.network.state_dict().items())
