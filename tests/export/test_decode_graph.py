"""Decode as ONNX operators chooses the very candidates of the reference, and places them where it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graph_runner import run_graph
from torch import Tensor

from retinanet.export.decode_graph import add_decode
from retinanet.model.anchors import cell_anchors
from retinanet.ops.decode import logit_threshold, reference

GRIDS = ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
STRIDES = ((8.0, 8.0), (16.0, 16.0), (32.0, 32.0), (61.0, 64.0), (64.0, 96.0))
SIZES = torch.tensor([[64, 96], [40, 96], [0, 0]])


def heads(classes: int, mean: float, spread: float, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    logits = [mean + spread * torch.randn(3, 9 * classes, *grid, generator=generator) for grid in GRIDS]
    return logits, [0.5 * torch.randn(3, 36, *grid, generator=generator) for grid in GRIDS]


def both(
    logits: list[Tensor], deltas: list[Tensor], threshold: float = 0.05, top_n: int = 100, offset: float = 0.5
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    anchors = torch.tensor(cell_anchors())
    settings = {"centre_offset": offset, "logit_threshold": logit_threshold(threshold), "top_n": top_n}
    found = run_graph(
        [*logits, *deltas, SIZES],
        lambda op, values: add_decode(op, values[:5], values[5:10], values[10], anchors.numpy(), STRIDES, **settings)[
            :3
        ],
    )
    flat = [pixels for stride in STRIDES for pixels in stride]
    return found, reference.decode(logits, deltas, SIZES, anchors, flat, *settings.values())


def assert_same_candidates(found: list[Tensor], expected: tuple[Tensor, ...], some: bool = True) -> None:
    scores, boxes, labels = found
    used = expected[0] > 0
    assert bool(used.any()) == some
    assert torch.equal(scores > 0, used)
    assert torch.equal(labels[used], expected[2][used])
    torch.testing.assert_close(scores, expected[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(boxes, expected[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("mean", "spread"), [(-6.5, 1.5), (0.0, 1.0), (-2.0, 3.0)])
@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("top_n", [1, 7, 100, 1000])
def test_few_and_many_candidates(mean: float, spread: float, classes: int, top_n: int) -> None:
    assert_same_candidates(*both(*heads(classes, mean, spread), top_n=top_n))


def test_nothing_passes() -> None:
    assert_same_candidates(*both(*heads(3, -20.0, 1.0)), some=False)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_ties_go_to_the_lower_position(levels: int) -> None:
    """Rounded logits tie by the hundred, across anchors and within them."""
    logits, deltas = heads(5, 0.0, 1.0)
    assert_same_candidates(*both([(level * levels).round() / levels for level in logits], deltas, top_n=50))


def test_all_tie() -> None:
    logits, deltas = heads(5, 0.0, 1.0)
    assert_same_candidates(*both([torch.zeros_like(level) for level in logits], deltas, top_n=50))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_never_come_back(poison: float) -> None:
    logits, deltas = heads(5, -1.0, 2.0)
    generator = torch.Generator().manual_seed(1)
    for maps in (*logits, *deltas):
        maps[torch.rand(maps.shape, generator=generator) < 0.1] = poison
    found, expected = both(logits, deltas)
    assert_same_candidates(found, expected)
    assert all(torch.isfinite(values).all() for values in found[:2])


def test_huge_deltas_stay_within_the_picture() -> None:
    logits, deltas = heads(2, 0.0, 1.0)
    assert_same_candidates(*both(logits, [level * 1000 for level in deltas]))


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_where_anchors_sit(offset: float) -> None:
    logits, deltas = heads(2, 0.0, 1.0)
    found, expected = both(logits, [torch.zeros_like(level) for level in deltas], offset=offset)
    assert_same_candidates(found, expected)
    assert torch.equal(found[1], expected[1])  # bit for bit, where no exponential is rounded


@pytest.mark.parametrize("threshold", [0.001, 0.5, 0.9])
def test_thresholds(threshold: float) -> None:
    assert_same_candidates(*both(*heads(3, 0.0, 2.0), threshold=threshold))


def test_half_precision_heads_are_decoded_in_single() -> None:
    logits, deltas = ([level.half() for level in maps] for maps in heads(5, -2.0, 3.0))
    assert_same_candidates(*both(logits, deltas))


def test_half_precision_overflow_never_comes_back() -> None:
    logits, deltas = heads(5, -2.0, 3.0)
    overflown: Callable[[Tensor], Tensor] = lambda level: (level * 20_000).half()  # noqa: E731
    found, expected = both([overflown(level) for level in logits], [level.half() for level in deltas])
    assert_same_candidates(found, expected)
