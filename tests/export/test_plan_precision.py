"""What convolutions compute in, as TensorRT's own parser types them and as engines of several versions describe it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from retinanet.errors import ExportError
from retinanet.export.plan_precision import engine_precisions, network_precisions, require_engine_precision

MODULE = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON="json"))


def quantised_graph(quantised: int, computed: int) -> onnx.ModelProto:
    """Two convolutions in a row: the first has its input and its weights quantised and back, the second none."""
    dtype = helper.tensor_dtype_to_np_dtype(computed)
    weights = np.random.default_rng(0).normal(size=(8, 8, 3, 3))
    small = weights.astype(helper.tensor_dtype_to_np_dtype(quantised))
    zeros = np.zeros(8, small.dtype)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_quantised"]),
        helper.make_node("DequantizeLinear", ["x_quantised", "scale", "zero"], ["x_back"]),
        helper.make_node("DequantizeLinear", ["weights", "scales", "zeros"], ["weights_back"], axis=0),
        helper.make_node("Conv", ["x_back", "weights_back"], ["y"], pads=[1] * 4, name="first"),
        helper.make_node("Conv", ["y", "others"], ["z"], pads=[1] * 4, name="second"),
    ]
    constants = [
        numpy_helper.from_array(np.array(0.1, dtype), "scale"),
        helper.make_tensor("zero", quantised, [], zeros[:1].tobytes(), raw=True),
        helper.make_tensor("weights", quantised, small.shape, small.tobytes(), raw=True),
        numpy_helper.from_array(np.full(8, 0.1, dtype), "scales"),
        helper.make_tensor("zeros", quantised, [8], zeros.tobytes(), raw=True),
        numpy_helper.from_array(weights.astype(dtype), "others"),
    ]
    values = [helper.make_tensor_value_info(name, computed, [1, 8, 16, 16]) for name in ("x", "z")]
    graph = helper.make_graph(nodes, "two", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("quantised", "computed", "expected"),
    [
        (TensorProto.INT8, TensorProto.FLOAT16, {"first": "int8", "second": "fp16"}),
        (TensorProto.INT8, TensorProto.FLOAT, {"first": "int8", "second": "fp32"}),
        (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT16, {"first": "fp8", "second": "fp16"}),
    ],
)
def test_a_quantised_convolution_computes_in_what_it_was_quantised_to(
    quantised: int, computed: int, expected: dict[str, str]
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(quantised_graph(quantised, computed).SerializeToString())
    assert network_precisions(network, trt) == expected


def engine_of(*layers: Any) -> Any:
    text = json.dumps({"Layers": layers, "Bindings": []})
    inspector = SimpleNamespace(get_engine_information=lambda kind: text)
    return SimpleNamespace(create_engine_inspector=lambda: inspector)


def layer(
    name: str, kind: str, *inputs: str, output: str = "", metadata: str = "", weights: str = ""
) -> dict[str, Any]:
    """As TensorRT's inspector describes one, DETAILED."""
    described = {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "half fp8", "Dimensions": [1, 3, 8, 8], "Format/Datatype": words} for words in inputs],
        "Outputs": [{"Name": "float", "Dimensions": [1, 3, 8, 8], "Format/Datatype": output}],
        "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc",
        "Metadata": metadata,
    }
    return described | ({"Weights": {"Type": weights, "Count": 864}} if weights else {})


def test_engines_of_several_versions() -> None:
    """Layers are called by what they were merged from, in their names or their metadata."""
    engine = engine_of(
        layer("a", "CaskConvolution", "Four wide channel vectorized row major Int8 format", weights="Int8"),
        layer("b + PWN(Relu_7)", "CaskConvolution", "Channel major FP16 format where channel % 8 == 0", weights="Half"),
        layer("__myl_Conv", "conv", "Half", output="Float", metadata="[ONNX Layer: c]\x1e[ONNX Layer: relu]"),
        layer("d", "Reformat", "Row major linear FP32", output="Half", metadata="[ONNX Layer: d]"),
        layer("e", "CaskConvolution", "FP8", "Half", output="Half"),
        layer("f", "NoOp"),
        "names alone",
    )
    expected = dict.fromkeys("abcdef", "fp16")
    assert engine_precisions(engine, MODULE, expected) == {
        "a": {"int8"},
        "b": {"fp16"},
        "c": {"fp16", "fp32"},
        "e": {"fp8", "fp16"},
    }


def test_the_verdict() -> None:
    engine = engine_of(layer("a", "conv", "Half", output="Half"), layer("b", "conv", "Float", output="Float"))
    assert "confirm 2 of them" in require_engine_precision(engine, MODULE, {"a": "fp16", "b": "fp32", "c": "fp16"})
    with pytest.raises(ExportError, match=r"1 of 3 convolutions .*\(b: int8 became fp32\)"):
        require_engine_precision(engine, MODULE, {"a": "fp16", "b": "int8", "c": "fp16"})
    assert "does not say" in require_engine_precision(engine_of(), MODULE, {"a": "fp16"})
