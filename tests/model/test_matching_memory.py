"""However many boxes an image has, matching needs no more memory than for some."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retinanet.model.anchors import cell_anchors, grid_anchors
from retinanet.model.atss import match_adaptively
from retinanet.model.matcher import match
from retinanet.model.record import MatchingRecord

HEIGHT, WIDTH = 256, 384


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that live at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.users: Counter[int] = Counter()
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                memory = tensor.untyped_storage()
                key, size = memory._cdata, memory.nbytes()
                self.now += 0 if self.users[key] else size
                self.users[key] += 1
                weakref.finalize(tensor, self.release, key, size)
        self.most = max(self.most, self.now)
        return result

    def release(self, key: int, size: int) -> None:
        self.users[key] -= 1
        self.now -= 0 if self.users[key] else size


def by_iou(anchors: Tensor, cells: list[int], *targets: Tensor) -> None:
    match(anchors, *targets, MatchingRecord())


@pytest.mark.parametrize("matching", [by_iou, match_adaptively])
def test_memory_does_not_grow_with_the_boxes(matching: Callable[..., Any]) -> None:
    strides = (8, 16, 32, 64, 128)
    grids = [(HEIGHT // stride, WIDTH // stride) for stride in strides]
    cells = torch.tensor(cell_anchors())
    levels = zip(cells, grids, strides, strict=True)
    anchors = torch.cat([grid_anchors(cell, grid, (stride, stride), 0.5) for cell, grid, stride in levels])

    def most(slots: int, used: int) -> int:
        corner = torch.rand(2, slots, 2) * 200
        boxes, labels = torch.cat([corner, corner + 40], dim=2), torch.full((2, slots), -1)
        labels[:, :used] = 1
        targets = boxes, labels, torch.zeros(2, slots, dtype=torch.bool), torch.tensor([[HEIGHT, WIDTH]] * 2)
        with Held() as held:
            matching(anchors, [height * width for height, width in grids], *targets)
        return held.most

    few, many = most(32, 20), most(256, 200)
    assert few > 2 * len(anchors) * 4  # it is counted
    assert many < 1.1 * few
