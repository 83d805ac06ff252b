"""What ranks do together, on two real processes."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch
from rank_processes import free_port, meet_again, on_two_ranks
from torch import nn

from retinanet.errors import UsageError
from retinanet.predict.results import Results
from retinanet.train import distributed
from retinanet.train.distributed import (
    Tally,
    average_over_ranks,
    gather_broken,
    gather_rows,
    global_sum,
    require_same,
    share_weights,
    sum_gradients,
)
from retinanet.train.validation import gather_results


def exchange(rank: int) -> dict:
    """Every way to exchange something, with other content on each rank."""
    distributed.BUCKET_ELEMENTS = 10  # several buckets, of one gradient and of many
    found: dict = {}
    own = torch.tensor([1.0, 10.0], requires_grad=True)
    found["sum"] = global_sum(own * (rank + 1))
    found["own"] = own.detach()

    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4, 2, 1, 2), (1,), (3,), (2, 3, 2, 2))]
    parameters[4].data = parameters[4].data.contiguous(memory_format=torch.channels_last)
    for index, parameter in enumerate(parameters):
        if (rank, index) != (1, 2):  # this rank has no gradient of the third
            gradient = torch.arange(parameter.numel()).view(parameter.shape) * (rank + 1.0) + index
            if rank == 0 and gradient.ndim == 4:  # laid out otherwise than on the other rank, and once than its weight
                gradient = gradient.contiguous(memory_format=torch.channels_last)
            parameter.grad = gradient
    sum_gradients(parameters)
    found["gradients"] = [parameter.grad for parameter in parameters]

    buffers = [torch.tensor([2.0, 4.0]) * rank, torch.tensor(5 + rank), torch.tensor(3.0 * rank)]
    average_over_ranks(buffers)
    found["averages"] = buffers

    found["tally"] = Tally("a test", rank + 1, 7).read()
    rows = np.arange(6).reshape(3, 2)[: 3 * rank]  # none on the first rank
    found["rows"] = [gather_rows("a test", rows), gather_rows("a test", rows[:0])]
    found["broken"] = gather_broken({f"{rank}\n .jpg": "what\u2028ails it", "both.jpg": "gone"} if rank else {})
    images = np.array([4, 4, 1][rank:])
    own_results = Results(images, images + 2**60, np.full((len(images), 4), 1.5), images / 10 + rank)
    found["results"] = gather_results(own_results)

    torch.manual_seed(rank)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    share_weights(network)
    found["weights"] = network.state_dict()
    require_same("numbers", ("a", 1.5))
    try:
        require_same("numbers", rank)
    except UsageError as error:
        found["other"] = str(error)
    return found


@pytest.fixture(scope="module")
def exchanged() -> list[dict]:
    return on_two_ranks(exchange)


def test_sums_are_of_all_ranks_and_leave_the_own_value_alone(exchanged: list[dict]) -> None:
    for found in exchanged:
        assert found["sum"].tolist() == [3, 30]
        assert not found["sum"].requires_grad
        assert found["own"].tolist() == [1, 10]
        assert found["tally"] == [3, 14]


def test_gradients_are_summed_in_place_also_where_a_rank_lacks_one(exchanged: list[dict]) -> None:
    for found in exchanged:
        one, two, three, four, five = found["gradients"]
        assert one.tolist() == (torch.arange(6.0).view(2, 3) * 3).tolist()
        assert two.tolist() == (torch.arange(16.0).view(4, 2, 1, 2) * 3 + 2).tolist()
        assert three.tolist() == [2]
        assert four.tolist() == [6, 9, 12]
        assert five.tolist() == (torch.arange(24.0).view(2, 3, 2, 2) * 3 + 8).tolist()


def test_statistics_are_averaged_and_counts_left_alone(exchanged: list[dict]) -> None:
    for rank, found in enumerate(exchanged):
        assert [buffer.tolist() for buffer in found["averages"]] == [[1, 2], 5 + rank, 1.5]


def test_rows_of_uneven_ranks_come_in_their_order(exchanged: list[dict]) -> None:
    for found in exchanged:
        rows, none = found["rows"]
        assert rows.tolist() == [[0, 1], [2, 3], [4, 5]]
        assert none.shape == (0, 2)
        assert found["broken"] == {"1\n .jpg": "what\u2028ails it", "both.jpg": "gone"}


def test_results_are_ordered_by_image_and_lose_no_digit(exchanged: list[dict]) -> None:
    for found in exchanged:
        results = found["results"]
        assert results.image_ids.tolist() == [1, 1, 4, 4, 4]
        assert results.category_ids.tolist() == (results.image_ids + 2**60).tolist()
        assert results.scores.tolist() == [0.1, 1.1, 0.4, 0.4, 1.4]
        assert (results.xywh == 1.5).all()


def test_all_ranks_start_from_the_first_ones_weights(exchanged: list[dict]) -> None:
    first, second = (found["weights"] for found in exchanged)
    torch.manual_seed(0)
    expected = nn.Conv2d(1, 2, 3).state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
    assert torch.equal(first["0.weight"], expected["weight"])


def test_ranks_that_see_other_things_are_told(exchanged: list[dict]) -> None:
    for found in exchanged:
        assert "the same numbers" in found["other"]


def test_alone_everything_is_what_it_was() -> None:
    tensor, rows = torch.ones(2), np.ones((2, 2))
    parameter = nn.Parameter(torch.zeros(1))
    sum_gradients([parameter])
    assert parameter.grad is None
    assert global_sum(tensor) is tensor
    assert gather_rows("a test", rows) is rows
    assert Tally("a test", 3).read() == [3]
    require_same("numbers", 1)


def test_ranks_that_are_started_again_do_not_meet_the_dead() -> None:
    """torchrun keeps its store over a restart, with what dead ranks wrote; and one rank is earlier than the other."""
    port = free_port()
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    for attempt, late in ((0, 0.0), (1, 3.0)):
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            jobs = [pool.apply_async(meet_again, (rank, port, attempt, late)) for rank in range(2)]
            assert [job.get(timeout=120) for job in jobs] == [3, 3]
    del store
