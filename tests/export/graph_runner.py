"""Parts of the export's graph on their own, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor

from retinanet.export.nodes import Nodes


def run_graph(inputs: Sequence[Tensor], add: Callable[[Nodes, list[ir.Value]], Sequence[ir.Value]]) -> list[Tensor]:
    """What the operators that `add` appends make of `inputs`, whose first side is dynamic."""
    values = [
        ir.Value(
            name=f"input_{index}",
            shape=ir.Shape(["N", *tensor.shape[1:]]),
            type=ir.TensorType(ir.DataType.from_numpy(tensor.numpy().dtype)),
        )
        for index, tensor in enumerate(inputs)
    ]
    graph = ir.Graph(values, [], nodes=[], opset_imports={"": 20}, name="part")
    outputs = add(Nodes(graph, "part"), values)
    graph.outputs.extend(outputs)
    model = ir.to_proto(ir.Model(graph, ir_version=10))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {value.name: tensor.numpy() for value, tensor in zip(values, inputs, strict=True)}
    return [torch.from_numpy(np.array(found)) for found in session.run(None, feed)]
