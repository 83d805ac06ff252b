"""Which convolutions are quantised, and the rewriting of the ONNX graph (explicit quantisation).

What is rounded, and to what, stands in the graph, so that every back end computes with the same numbers. Convolutions
alone are quantised; biases, additions and everything else keep the graph's own type, and so do the last convolutions of
the heads: what they give is a score or a box, and must not be rounded to 1/127.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from retinanet.config import ExportPrecision
from retinanet.errors import ExportError, UsageError
from retinanet.export.qdq import Convolution, quantized_input, quantized_weight
from retinanet.export.quantized_type import quantized_type
from retinanet.predict.runtimes.artifact import ArtifactRecord

if TYPE_CHECKING:
    import onnx_ir as ir

Ranges = Mapping[str, Sequence[float]]
"""Convolution, by its name in the network → where the magnitudes of its input are cut off, call by call."""

FP8_CHANNELS = 16
"""Tensor cores take so many at once."""
FP8_CAPABILITY = (8, 9)
"""The first GPUs that have it: Ada."""


def require_quantisable(record: ArtifactRecord, device: torch.device) -> None:
    """Raise `UsageError` where the record's format, or the GPU that it is built for, has not its precision."""
    if record.quantised and record.format == "aoti":
        raise UsageError(
            f"A .pt2 file computes in fp16 or fp32, not in {record.precision}; export a .plan or .onnx file, or leave "
            "--precision out."
        )
    if record.precision == "fp8" and record.format == "tensorrt" and device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < FP8_CAPABILITY:
            raise UsageError(
                f"FP8 needs a GPU of compute capability {'.'.join(map(str, FP8_CAPABILITY))} or more, but this one has "
                f"{'.'.join(map(str, found))}; use --precision int8 or fp16."
            )


def quantize(model: ir.Model, ranges: Ranges, precision: ExportPrecision) -> None:
    """Quantise the convolutions of a network's graph, in place: those that `ranges` knows and the type is good for.

    Raises `ExportError` when there is none.
    """
    kind, graph = quantized_type(precision), model.graph
    calls: Counter[str] = Counter()
    inputs: dict[ir.Value, ir.Value] = {}
    weights: dict[ir.Value, ir.Value] = {}
    for convolution in list(_convolutions(graph)):
        node, value, weight = convolution.node, convolution.value, convolution.weight
        known, call = ranges.get(convolution.name, ()), calls[convolution.name]
        calls[convolution.name] += 1
        if call >= len(known) or not _suits(convolution, precision):
            continue
        if value not in inputs:
            inputs[value] = quantized_input(graph, convolution, known[call], kind)
        if weight not in weights:
            weights[weight] = quantized_weight(graph, convolution, min(known), kind)
        node.replace_input_with(0, inputs[value])
        node.replace_input_with(1, weights[weight])
    if not weights:
        raise ExportError(f"None of the network's convolutions can be quantised to {precision}; use --precision fp16.")
    for weight in weights:
        if not weight.uses():
            graph.initializers.pop(str(weight.name))


def _convolutions(graph: ir.Graph) -> Iterator[Convolution]:
    """Those with constant weights."""
    for node in graph:
        value, weight, bias = (*node.inputs, None)[:3] if node.op_type == "Conv" else (None, None, None)
        if value is not None and weight is not None and weight.const_value is not None:
            biases = bias.const_value.numpy() if bias is not None and bias.const_value is not None else None
            yield Convolution(node, value, weight, weight.const_value.numpy(), biases)


def _suits(convolution: Convolution, precision: ExportPrecision) -> bool:
    """Whether the type has bits enough.

    FP8 has three behind the point. The picture itself and depthwise convolutions need more: they alone cost more
    accuracy than all others together (benchmarks/results/quantisation.md). Nor do tensor cores take them in FP8.
    """
    groups = convolution.node.attributes.get_int("group", 1)
    return precision != "fp8" or (groups == 1 and convolution.weights.shape[1] % FP8_CHANNELS == 0)
