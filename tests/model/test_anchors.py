from dataclasses import replace

import pytest
import torch

from retinanet.model.anchors import cell_anchors, grid_anchors
from retinanet.model.network import RetinaNet


def test_cell_anchors_have_the_papers_areas_and_ratios():
    levels = torch.tensor(cell_anchors(), dtype=torch.float64)  # [5, 9, 4]
    size = levels[..., 2:] - levels[..., :2]
    assert torch.equal(levels[..., :2], -levels[..., 2:])
    scales = torch.tensor([1, 2 ** (1 / 3), 2 ** (2 / 3)], dtype=torch.float64)
    areas = (torch.tensor([32.0, 64, 128, 256, 512])[:, None] * scales) ** 2
    torch.testing.assert_close(size.prod(-1), areas.repeat(1, 3))
    ratios = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).repeat_interleave(3).expand(5, 9)
    torch.testing.assert_close(size[..., 1] / size[..., 0], ratios)


def test_grid_anchors_go_row_by_row_with_an_offset_centre():
    cell = torch.tensor([[-2.0, -1, 2, 1], [-1, -1, 1, 1]])
    anchors = grid_anchors(cell, (2, 3), (10.0, 20.0), 0.5)
    expected = [
        [centre_x + x1, centre_y + y1, centre_x + x2, centre_y + y2]
        for centre_y in (5, 15)
        for centre_x in (10, 30, 50)
        for x1, y1, x2, y2 in cell.tolist()
    ]
    assert anchors.tolist() == expected


@pytest.mark.parametrize(
    ("rule", "expected"), [("nominal", (64.0, 64.0)), ("grid", (61.0, 64.0))], ids=["nominal", "grid"]
)
def test_strides_by_rule(record, rule, expected):
    network = RetinaNet(replace(record, stride_rule=rule))
    assert network.stride(64, (800, 1344), (13, 21)) == expected
