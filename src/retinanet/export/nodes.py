"""Adds ONNX operators to a graph, one call each, so that what a graph computes reads like what it means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

FLOAT, INT64, FLOAT16 = 1, 7, 10
"""ONNX's numbers of the types that are cast to."""


class Nodes:
    """`op("Add", a, b)` appends one node to the graph and returns its output, `op.several` its outputs.

    Inputs are values of the graph or constants: arrays, or lists of integers (int64).
    """

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self.graph, self._prefix = graph, prefix
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._count = 0

    def __call__(self, operator: str, *inputs: Any, **attributes: Any) -> ir.Value:
        """The output of an operator that has one."""
        return self.several(operator, *inputs, outputs=1, **attributes)[0]

    def several(self, operator: str, *inputs: Any, outputs: int, **attributes: Any) -> Sequence[ir.Value]:
        """The outputs of an operator that has `outputs` of them."""
        import onnx_ir as ir

        values = [value if isinstance(value, ir.Value) else self._constant(np.asarray(value)) for value in inputs]
        self._count += 1
        name = f"{self._prefix}_{self._count}_{operator}"
        node = ir.node(operator, values, attributes, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_{index}"
        self.graph.append(node)
        return node.outputs

    def _constant(self, array: np.ndarray) -> ir.Value:
        """An initializer; equal ones are shared."""
        import onnx_ir as ir

        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"{self._prefix}_constant_{len(self._constants)}"
            tensor = ir.tensor(array, name=name)
            value = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self.graph.initializers.add(value)
            self._constants[key] = value
        return self._constants[key]


def divmod_(op: Nodes, values: ir.Value, divisor: int) -> tuple[ir.Value, ir.Value]:
    """Quotient and remainder of non-negative int64 values."""
    quotient = op("Div", values, np.int64(divisor))
    return quotient, op("Sub", values, op("Mul", quotient, np.int64(divisor)))
