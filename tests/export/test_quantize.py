"""Quantised convolutions compute what the definition says, in every program that reads the graph as it is written."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from retinanet.config import ExportPrecision, PostprocessConfig
from retinanet.errors import ExportError, UsageError
from retinanet.export.quantize import quantize, require_quantisable
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.types import ClassMap

TOP = {"int8": 127.0, "fp8": 448.0}


def fake_quantised(values: Tensor, largest: Tensor | float, precision: str) -> Tensor:
    """By PyTorch's own types; `largest` is one number, or one for each first index."""
    scale = torch.as_tensor(largest).reshape(-1, *[1] * (values.ndim - 1)) / TOP[precision]
    scaled = (values / scale).clamp(-128 if precision == "int8" else -448, TOP[precision])
    return (scaled.round() if precision == "int8" else scaled.to(torch.float8_e4m3fn).float()) * scale


def model_of(*calls: tuple[str, Tensor, Tensor, int], half: bool = False) -> ir.Model:
    """A graph in which a picture `[1, C, 6, 7]` goes through convolutions (name, weight, bias, groups) one by one."""
    dtype = ir.DataType.FLOAT16 if half else ir.DataType.FLOAT
    picture = ir.Value(
        name="x0", shape=ir.Shape([1, calls[0][1].shape[1] * calls[0][3], 6, 7]), type=ir.TensorType(dtype)
    )
    graph = ir.Graph([picture], [], nodes=[], opset_imports={"": 20}, name="part")
    value = picture
    for index, (name, *constants, groups) in enumerate(calls):
        inputs = [value]
        for kind, tensor in zip(("weight", "bias"), constants, strict=True):
            full = f"network.{name}.{kind}"
            if full not in graph.initializers:
                array = tensor.numpy().astype(dtype.numpy())
                constant = ir.Value(
                    name=full, shape=ir.Shape(array.shape), type=ir.TensorType(dtype), const_value=ir.tensor(array)
                )
                graph.initializers.add(constant)
            inputs.append(graph.initializers[full])
        node = ir.node("Conv", inputs, {"group": groups, "pads": [1, 1, 1, 1]}, name=f"conv{index}")
        value = node.outputs[0]
        value.name, value.type = f"x{index + 1}", ir.TensorType(dtype)
        value.shape = ir.Shape([1, constants[0].shape[0], 6, 7])
        graph.append(node)
    graph.outputs.append(value)
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, picture: Tensor, *, optimised: bool = False) -> Tensor:
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x0": picture.numpy()})[0])


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_convolution_computes_with_rounded_numbers(random: torch.Generator, precision: ExportPrecision) -> None:
    """Activations by one scale, weights by one for each output channel, cut off where the range ends; exact bias."""
    weight = torch.randn(5, 16, 3, 3, generator=random) * torch.tensor([1e-3, 0.1, 1, 10, 100])[:, None, None, None]
    bias, picture = torch.randn(5, generator=random), 3 * torch.randn(1, 16, 6, 7, generator=random)
    model = model_of(("a.b", weight, bias, 1))
    quantize(model, {"a.b": [4.0]}, precision)
    expected = F.conv2d(
        fake_quantised(picture, 4.0, precision),
        fake_quantised(weight, weight.abs().flatten(1).amax(1), precision),
        bias,
        padding=1,
    )
    found = run(model, picture)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    exact = F.conv2d(picture, weight, bias, padding=1)
    assert (found - exact).abs().amax((0, 2, 3)).min() > 1e-5  # it is quantised
    kinds = {value.dtype for value in model.graph.initializers.values()}
    assert (ir.DataType.INT8 if precision == "int8" else ir.DataType.FLOAT8E4M3FN) in kinds
    assert "network.a.b.weight" not in model.graph.initializers


def test_each_call_of_a_shared_convolution_has_its_own_range(random: torch.Generator) -> None:
    weight, bias = torch.randn(16, 16, 3, 3, generator=random), torch.zeros(16)
    picture = torch.randn(1, 16, 6, 7, generator=random)
    model = model_of(("head", weight, bias, 1), ("head", weight, bias, 1))
    quantize(model, {"head": [2.0, 30.0]}, "int8")
    rounded = fake_quantised(weight, weight.abs().flatten(1).amax(1), "int8")
    between = F.conv2d(fake_quantised(picture, 2.0, "int8"), rounded, padding=1)
    expected = F.conv2d(fake_quantised(between, 30.0, "int8"), rounded, padding=1)
    torch.testing.assert_close(run(model, picture), expected, rtol=1e-3, atol=1e-3)
    assert sum(node.op_type == "DequantizeLinear" for node in model.graph) == 3  # one weight, two inputs


def test_a_channel_without_weights_keeps_its_bias(random: torch.Generator) -> None:
    """ONNX Runtime's optimiser makes biases 32-bit multiples of the scales: too small a scale, and they are cut off."""
    weight = torch.randn(4, 16, 3, 3, generator=random)
    weight[1], weight[2] = 0, weight[2] * 1e-12
    bias = torch.tensor([1.0, 5.0, -7.0, 0.0])
    model = model_of(("a", weight, bias, 1))
    quantize(model, {"a": [1.0]}, "int8")
    found = run(model, torch.zeros(1, 16, 6, 7), optimised=True)
    torch.testing.assert_close(found[0, :, 3, 3], bias, rtol=1e-4, atol=1e-4)


def test_half_precision_has_scales_that_it_can_hold(random: torch.Generator) -> None:
    """Ranges of 0 and of less than fp16 can divide by."""
    weight, picture = torch.randn(4, 16, 3, 3, generator=random), torch.zeros(1, 16, 6, 7, dtype=torch.float16)
    model = model_of(("a", weight, torch.ones(4), 1), ("b", weight[:, :4] * 1e-9, torch.ones(4), 1), half=True)
    quantize(model, {"a": [0.0], "b": [1e-6]}, "int8")
    scales = [value.const_value.numpy() for name, value in model.graph.initializers.items() if name.endswith("_scale")]
    assert all((scale >= np.finfo(np.float16).tiny).all() for scale in scales)
    torch.testing.assert_close(run(model, picture)[0, :, 3, 3].float(), torch.ones(4))


def test_what_is_not_known_stays(random: torch.Generator) -> None:
    weight, bias = torch.randn(16, 16, 3, 3, generator=random), torch.zeros(16)
    model = model_of(("known", weight, bias, 1), ("unknown", weight, bias, 1))
    quantize(model, {"known": [1.0]}, "int8")
    assert "network.unknown.weight" in model.graph.initializers
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == 1
    with pytest.raises(ExportError, match="None of the network's convolutions"):
        quantize(model_of(("unknown", weight, bias, 1)), {"known": [1.0]}, "int8")


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (16, 16)])
def test_fp8_leaves_pictures_and_depthwise_convolutions_alone(channels: int, groups: int) -> None:
    weight, bias = torch.ones(16, channels // groups, 3, 3), torch.zeros(16)
    other = ("b", torch.ones(4, 16, 3, 3), torch.zeros(4), 1)
    for precision, quantised in (("int8", 2), ("fp8", 1)):
        model = model_of(("a", weight, bias, groups), other)
        quantize(model, {"a": [1.0], "b": [1.0]}, precision)  # type: ignore[arg-type]
        assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == quantised


@pytest.mark.parametrize(("capability", "works"), [((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_fp8_needs_a_gpu_that_has_it(
    monkeypatch: pytest.MonkeyPatch, exported: ArtifactRecord, capability: tuple[int, int], works: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda", 0)
    if works:
        require_quantisable(exported, device)
        return
    with pytest.raises(UsageError, match=r"8\.9 or more, but this one has 8"):
        require_quantisable(exported, device)


@pytest.fixture
def exported() -> ArtifactRecord:
    return ArtifactRecord(
        "tensorrt", ClassMap((1,), ("a",)), (64, 64), (1, 1, 1), 64, 64, PostprocessConfig(), "fp8", "m.pth"
    )
