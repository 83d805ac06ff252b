"""The loop around a model: it runs ahead of the thread that finishes batches, but not without bound."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from retinanet.predict.pipeline import IN_FLIGHT, run_batches
from retinanet.types import Batch, Detections

PATIENCE = 60  # seconds, for machines under load


class FakePredictor:
    """Its detections say which batch they are of."""

    def __init__(self) -> None:
        self.runtime = SimpleNamespace(device=torch.device("cpu"))
        self.started = [threading.Event() for _ in range(20)]

    def trim(self, batch: Batch) -> Batch:
        return batch

    def run(self, batch: Batch) -> Detections:
        number = int(batch.image_ids[0])
        self.started[number].set()
        scores = torch.full((1, 3), float(number))
        return Detections(scores, torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.int64), torch.tensor([3]))


def batches(count: int) -> Iterator[Batch]:
    for number in range(count):
        none = torch.empty(0)
        yield Batch(none, none, none, none, none, torch.tensor([number]), none)


def test_each_batch_is_finished_in_turn_with_its_own_detections() -> None:
    found = []
    run_batches(FakePredictor(), batches(10), lambda ids, detections: found.append((ids, detections.scores)))
    assert [int(ids) for ids, _ in found] == list(range(10))
    assert [int(scores[0, 0]) for _, scores in found] == list(range(10))


def test_the_next_batch_is_run_while_the_last_is_being_finished() -> None:
    predictor, threads = FakePredictor(), set()

    def finish(image_ids: Tensor, _: Detections) -> None:
        threads.add(threading.current_thread())
        following = min(int(image_ids) + 1, 9)
        assert predictor.started[following].wait(PATIENCE)  # a loop that waited for us would never begin it

    run_batches(predictor, batches(10), finish)
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_the_loop_waits_for_a_slow_thread() -> None:
    predictor, most = FakePredictor(), []

    def finish(image_ids: Tensor, _: Detections) -> None:
        ahead = int(image_ids) + IN_FLIGHT
        if ahead < 20:
            assert not predictor.started[ahead].wait(0.05)
        most.append(sum(event.is_set() for event in predictor.started) - int(image_ids))

    run_batches(predictor, batches(20), finish)
    assert max(most) <= IN_FLIGHT


def test_what_goes_wrong_in_the_thread_ends_the_run() -> None:
    predictor = FakePredictor()

    def finish(image_ids: Tensor, _: Detections) -> None:
        if int(image_ids) == 2:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run_batches(predictor, batches(20), finish)
    assert not predictor.started[2 + 2 * IN_FLIGHT].is_set()


def test_what_was_begun_is_finished_before_an_interruption_goes_on() -> None:
    found = []

    def interrupted() -> Iterator[Batch]:
        yield from batches(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batches(FakePredictor(), interrupted(), lambda ids, _: found.append(int(ids)))
    assert found == [0, 1, 2]
