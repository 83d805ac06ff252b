from dataclasses import replace

import pytest
import torch

from retinanet.model.anchors import cell_anchors
from retinanet.model.network import RetinaNet


@torch.no_grad()
def test_outputs_have_the_contracts_shapes(network, batch):
    outputs = network.eval()(batch.images, batch.image_sizes)
    grids = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
    assert [tuple(level.shape) for level in outputs.logits] == [(4, 9 * 3, *grid) for grid in grids]
    assert [tuple(level.shape) for level in outputs.deltas] == [(4, 9 * 4, *grid) for grid in grids]
    assert outputs.strides == ((8, 8), (16, 16), (32, 32), (64, 64), (128, 128))
    assert network.anchors(outputs).shape == (9 * sum(h * w for h, w in grids), 4)


@torch.no_grad()
def test_a_new_networks_scores_are_the_papers_prior(network, batch):
    outputs = network.eval()(batch.images, batch.image_sizes)
    scores = torch.cat([level.sigmoid().flatten() for level in outputs.logits])
    assert scores.median().item() == pytest.approx(0.01, rel=0.05)


@torch.no_grad()
def test_what_lies_outside_the_picture_changes_nothing(network, batch):
    network.eval()
    clean = network(batch.images, batch.image_sizes)
    images = batch.images.clone()
    images[1, :, 80:] = 255
    images[2, :, :, 100:] = 7
    images[3] = 99
    dirty = network(images, batch.image_sizes)
    for ours, theirs in zip((*clean.logits, *clean.deltas), (*dirty.logits, *dirty.deltas), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_an_ensembles_levels_are_those_of_its_members(ensemble_record, batch):
    torch.manual_seed(0)
    network = RetinaNet(ensemble_record).eval()
    both = network(batch.images, batch.image_sizes)
    assert len(both.logits) == len(both.deltas) == len(both.strides) == len(network.cell_anchors) == 10

    for member in range(2):
        alone = RetinaNet(replace(ensemble_record, backbones=ensemble_record.backbones[member : member + 1])).eval()
        alone.backbones[0].load_state_dict(network.backbones[member].state_dict())
        alone.pyramids[0].load_state_dict(network.pyramids[member].state_dict())
        alone.class_head.load_state_dict(network.class_head.state_dict())
        alone.box_head.load_state_dict(network.box_head.state_dict())
        single = alone(batch.images, batch.image_sizes)
        levels = slice(5 * member, 5 * member + 5)
        for ours, theirs in zip(both.logits[levels] + both.deltas[levels], single.logits + single.deltas, strict=True):
            torch.testing.assert_close(ours, theirs)
        assert torch.equal(network.anchors(both).chunk(2)[member], alone.anchors(single))


@torch.no_grad()
def test_outputs_stay_channels_last(network, batch):
    network.eval().to(memory_format=torch.channels_last)
    outputs = network(batch.images, batch.image_sizes)
    for level in outputs.logits + outputs.deltas:
        assert level.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_lower_precision_keeps_the_anchors(network, batch, precision):
    network.eval()
    expected = network(batch.images, batch.image_sizes)
    anchors = network.anchors(expected)
    if precision is torch.bfloat16:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(batch.images, batch.image_sizes)
    else:
        outputs = network.half()(batch.images, batch.image_sizes)
    assert all(level.dtype == precision for level in outputs.logits + outputs.deltas)
    assert network.anchors(outputs).dtype == torch.float32
    assert torch.equal(network.anchors(outputs), anchors)
    for low, full in zip(outputs.logits, expected.logits, strict=True):
        torch.testing.assert_close(low.float(), full, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("stride_rule", ["nominal", "grid"])
@torch.no_grad()
def test_export_gives_the_same_outputs(record, batch, stride_rule):
    network = RetinaNet(replace(record, stride_rule=stride_rule)).eval()
    inputs = (batch.images, batch.image_sizes)
    exported = torch.export.export(network, inputs).module()(*inputs)
    expected = network(*inputs)
    assert exported.strides == expected.strides
    torch.testing.assert_close(exported.logits, expected.logits)
    torch.testing.assert_close(exported.deltas, expected.deltas)


def test_group_norm_and_p6_from_c5_change_the_network_that_the_record_describes(record):
    network = RetinaNet(replace(record, width=32, head_norm="group", p6_source="c5"))
    keys = network.state_dict()
    assert "class_head.tower.0.1.weight" in keys
    assert "class_head.tower.0.0.bias" not in keys
    assert network.pyramids[0].p6.in_channels == network.backbones[0].channels[-1]


@torch.no_grad()
def test_anchors_of_the_record_are_used_as_they_are(record, batch):
    levels = tuple(tuple((-i, -2.0 * i, i, 2.0 * i) for i in (1.0, 3.0)) for _ in range(5))
    network = RetinaNet(replace(record, cell_anchors=levels, centre_offset=0.0)).eval()
    outputs = network(batch.images, batch.image_sizes)
    assert outputs.deltas[0].shape[1] == 2 * 4
    assert network.anchors(outputs)[:4].tolist() == [[-1, -2, 1, 2], [-3, -6, 3, 6], [7, -2, 9, 2], [5, -6, 11, 6]]
    assert cell_anchors() != levels
