"""Pairs of QuantizeLinear and DequantizeLinear around a convolution of an ONNX graph.

Symmetric, so that zero stays zero: real = scale * quantised. Activations have one scale a tensor, weights one for each
output channel (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference"). This is the form that TensorRT and ONNX Runtime ask for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from retinanet.export.quantized_type import QuantizedType

if TYPE_CHECKING:
    import onnx_ir as ir

_BIAS_LIMIT = 2.0**30
"""Programs that compute with integers hold a bias as a 32-bit multiple of the scales of input and weight."""


class Convolution(NamedTuple):
    """A node with what it computes from."""

    node: ir.Node
    value: ir.Value
    """What comes in."""
    weight: ir.Value
    weights: np.ndarray
    """`[O, I, h, w]`, in the graph's type."""
    bias: np.ndarray | None
    """`[O]`"""

    @property
    def name(self) -> str:
        """Of the module in the network."""
        return str(self.weight.name).removeprefix("network.").removesuffix(".weight")


def quantized_input(graph: ir.Graph, convolution: Convolution, largest: float, kind: QuantizedType) -> ir.Value:
    """What comes in, rounded to the quantised type and back, cut off at `largest`."""
    value, dtype = convolution.value, convolution.weights.dtype
    scale = _initializer(graph, f"{value.name}_scale", kind.scale(largest, dtype))
    zero = _initializer(graph, f"{value.name}_zero", np.zeros((), kind.dtype))
    rounded = _node("QuantizeLinear", [value, scale, zero], f"{value.name}_quantized", value.shape, zero.dtype)
    inputs = [rounded.outputs[0], scale, zero]
    restored = _node("DequantizeLinear", inputs, f"{value.name}_dequantized", value.shape, scale.dtype)
    graph.insert_before(convolution.node, (rounded, restored))
    return restored.outputs[0]


def quantized_weight(graph: ir.Graph, convolution: Convolution, input_range: float, kind: QuantizedType) -> ir.Value:
    """The weight, from its quantised values. `input_range` is the least that the convolution's input is cut off at."""
    weight, dtype = convolution.weight, convolution.weights.dtype
    values = convolution.weights.astype(np.float32)
    largest = np.abs(values).reshape(len(values), -1).max(1)
    if convolution.bias is not None:
        # A channel of tiny weights gets a larger scale than it needs, where its bias would not fit otherwise.
        unit = float(kind.scale(input_range, dtype)) * _BIAS_LIMIT / kind.largest
        largest = np.maximum(largest, np.abs(convolution.bias.astype(np.float32)) / unit)
    scale = kind.scale(largest, dtype)
    rounded = kind.round(values / scale.astype(np.float32)[:, None, None, None])
    inputs = [
        _initializer(graph, f"{weight.name}_quantized", rounded),
        _initializer(graph, f"{weight.name}_scale", scale),
        _initializer(graph, f"{weight.name}_zero", np.zeros(len(scale), kind.dtype)),
    ]
    node = _node("DequantizeLinear", inputs, f"{weight.name}_dequantized", weight.shape, inputs[1].dtype, axis=0)
    graph.insert_before(convolution.node, node)
    return node.outputs[0]


def _node(operator: str, inputs: list[ir.Value], name: str, shape: Any, dtype: Any, **attributes: int) -> ir.Node:
    import onnx_ir as ir

    node = ir.node(operator, inputs, attributes, name=name)
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = name, shape, ir.TensorType(dtype)
    return node


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    import onnx_ir as ir

    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.initializers.add(value)
    return value
