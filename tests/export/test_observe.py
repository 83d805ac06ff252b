"""Calibration looks at the numbers that the exported graph's convolutions get, and at no others."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from retinanet.config import PostprocessConfig
from retinanet.errors import ExportError
from retinanet.export.network_graph import network_graph
from retinanet.export.observe import TOLD_APART, Magnitudes, observe
from retinanet.export.pictures import batch_of
from retinanet.model.checkpoint import create_network, create_record
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.types import ClassMap

CLASSES = ClassMap((3, 17), ("disc", "rectangle"))


@pytest.mark.parametrize(
    "backbones",
    [
        ("test_resnet",),
        ("test_efficientnet", "test_resnet"),
        pytest.param(("tf_efficientnet_lite0",), marks=pytest.mark.slow),
        pytest.param(("resnet18",), marks=pytest.mark.slow),
    ],
)
def test_the_graphs_convolutions_get_what_was_observed(backbones: tuple[str, ...]) -> None:
    """The graph, with its own names and its batch norm folded, is run by another program: the same largest inputs."""
    description = create_record(CLASSES, backbones, width=16, weights="none", anchor_scale=4.0, resize=64, max_size=96)
    torch.manual_seed(0)
    network = create_network(description, "none").eval()
    for module in network.modules():  # else folding it would change nothing
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    record = ArtifactRecord("onnx", CLASSES, (64, 96), (1, 1, 1), 64, 96, PostprocessConfig(), "fp32", "model.pth")
    picture = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = batch_of([picture], 1, record)
    seen = observe(network, [batch])

    model = network_graph(network, record)
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    model.graph.outputs.extend({node.inputs[0]: None for node in convolutions})
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {"images": batch.images.numpy(), "image_sizes": batch.image_sizes.numpy()}
    values = dict(zip(names, session.run(None, feed), strict=True))
    calls: Counter[str] = Counter()
    for node in convolutions:
        name = node.inputs[1].name.removeprefix("network.").removesuffix(".weight")
        if name.endswith("head.predict"):
            assert name not in seen
            continue
        largest = np.abs(values[node.inputs[0].name]).max()
        assert seen[name][calls[name]].largest == pytest.approx(largest, rel=1e-3)
        calls[name] += 1
    assert {name: len(found) for name, found in seen.items()} == dict(calls)


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (1e-3, 1.0, 50.0), (50.0, 1.0, 1e-3)])
def test_the_range_is_the_quantile_of_all_magnitudes(scales: tuple[float, ...]) -> None:
    """Also where later pictures are much brighter than the first."""
    generator = torch.Generator().manual_seed(0)
    tensors = [scale * torch.randn(4, 100_000, generator=generator) for scale in scales]
    magnitudes = Magnitudes()
    for tensor in tensors:
        magnitudes.add(tensor)
    everything = torch.cat(tensors).abs().numpy()
    assert magnitudes.range == pytest.approx(np.quantile(everything, TOLD_APART), rel=0.02)
    assert magnitudes.range <= magnitudes.largest
    assert magnitudes.counts.sum() == everything.size


def test_zeros_have_no_range() -> None:
    magnitudes = Magnitudes()
    magnitudes.add(torch.zeros(3, 4))
    assert magnitudes.range == 0
    magnitudes.add(torch.tensor([0.5]))
    assert magnitudes.range == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ExportError, match="not finite"):
        Magnitudes().add(torch.tensor([1.0, value]))


def test_observing_leaves_the_network_as_it_was() -> None:
    description = create_record(
        CLASSES, ("test_resnet",), width=16, weights="none", anchor_scale=4.0, resize=64, max_size=64
    )
    network = create_network(description, "none").eval()
    observe(network, [])
    assert not any(module._forward_pre_hooks for module in network.modules())
