"""The whole detector as one ONNX graph of standard operators, post-processing included."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from retinanet import extras
from retinanet.export.decode_graph import add_decode, level_shape
from retinanet.export.describe import Built
from retinanet.export.network_graph import network_graph
from retinanet.export.nms_graph import NMSForm, add_nms
from retinanet.export.nodes import Nodes
from retinanet.export.quantize import Ranges, quantize
from retinanet.ops.decode import logit_threshold
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.artifact import RECORD_KEY, ArtifactRecord

if TYPE_CHECKING:
    import onnx_ir as ir

OUTPUTS = ("scores", "boxes", "classes")


def build(
    detector: Detector, record: ArtifactRecord, out: Path, device: torch.device, ranges: Ranges | None = None
) -> Built:
    """Write `out`. The graph is the same for every device.

    Raises:
        UsageError: a package of the extra `export` is missing.
        ExportError: the network cannot be written as a graph.
    """
    extras.require("onnxruntime", "export", "Verifying an ONNX file")  # before minutes of work
    model = detector_graph(detector, record, nms="operator", ranges=ranges)
    record = replace(record, versions={**record.versions, "onnx": extras.require("onnx", "export", "ONNX").__version__})
    save(model, record, out)
    return Built(record)


def detector_graph(detector: Detector, record: ArtifactRecord, nms: NMSForm, ranges: Ranges | None = None) -> ir.Model:
    """The detector on the record's canvas, in its precision, for its batch (dynamic unless it is just one number).

    `detector` is changed: its network's weights take the record's precision. Inputs are images uint8 `[N, 3, H, W]` and
    image_sizes int64 `[N, 2]`; outputs scores float32 `[N, D]`, boxes float32 `[N, D, 4]` on the canvas and classes
    int64 `[N, D]` (class indices), padded as `Detections` are. Raises as `build` does.
    """
    network, postprocess = detector.network, detector.postprocess
    model = network_graph(network, record)
    if record.quantised:
        assert ranges is not None
        quantize(model, ranges, record.precision)
    op = Nodes(model.graph, "postprocess")
    levels = len(network.cell_anchors)
    logits, deltas = model.graph.outputs[:levels], model.graph.outputs[levels:]
    nominal = network.record.strides * len(network.backbones)
    strides = [
        network.stride(stride, record.canvas, level_shape(logit)[2:])
        for stride, logit in zip(nominal, logits, strict=True)
    ]
    found = add_decode(
        op,
        logits,
        deltas,
        model.graph.inputs[1],
        network.cell_anchors.numpy(),
        strides,
        centre_offset=network.record.centre_offset,
        logit_threshold=logit_threshold(postprocess.threshold),
        top_n=postprocess.top_n,
    )
    outputs = add_nms(
        op,
        found,
        classes=len(record.classes),
        iou_threshold=postprocess.nms,
        detections=postprocess.detections,
        form=nms,
        half=record.half,
    )
    _set_outputs(model, outputs, postprocess.detections)
    return model


def save(model: ir.Model, record: ArtifactRecord, out: Path) -> None:
    """Write the graph with its record inside, and the classes' names and ids where other programs look for them."""
    import onnx_ir as ir

    model.metadata_props[RECORD_KEY] = record.to_json()
    model.metadata_props["names"] = json.dumps(dict(enumerate(record.classes.names)))
    model.metadata_props["category_ids"] = json.dumps(dict(enumerate(record.classes.ids)))
    ir.save(model, out)


def _set_outputs(model: ir.Model, outputs: tuple[ir.Value, ...], detections: int) -> None:
    import onnx_ir as ir

    batch = model.graph.inputs[0].shape[0]  # type: ignore[index]
    shapes = ((batch, detections), (batch, detections, 4), (batch, detections))
    types = (ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.INT64)
    model.graph.outputs.clear()
    for value, name, shape, dtype in zip(outputs, OUTPUTS, shapes, types, strict=True):
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)
        model.graph.outputs.append(value)
