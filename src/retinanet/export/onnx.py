"""The whole detector as one ONNX graph of standard operators, post-processing included."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from retinanet import extras
from retinanet.errors import ExportError
from retinanet.export.decode_graph import add_decode, level_shape
from retinanet.export.nms_graph import NMSForm, add_nms
from retinanet.export.nodes import Nodes
from retinanet.model.network import RetinaNet
from retinanet.ops.decode import logit_threshold
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.artifact import RECORD_KEY, ArtifactRecord
from retinanet.types import HeadOutputs

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 20
INPUTS = ("images", "image_sizes")
OUTPUTS = ("scores", "boxes", "classes")


def build(detector: Detector, record: ArtifactRecord, out: Path, device: torch.device) -> ArtifactRecord:
    """Write `out` and return its record. The graph is the same for every device.

    Raises:
        UsageError: a package of the extra `export` is missing.
        ExportError: the network cannot be written as a graph.
    """
    extras.require("onnxruntime", "export", "Verifying an ONNX file")  # before minutes of work
    model = detector_graph(detector, record, nms="operator")
    record = replace(record, versions={**record.versions, "onnx": extras.require("onnx", "export", "ONNX").__version__})
    save(model, record, out)
    return record


def detector_graph(detector: Detector, record: ArtifactRecord, nms: NMSForm) -> ir.Model:
    """The detector on the record's canvas, in its precision, for its batch (dynamic unless it is just one number).

    `detector` is changed: its network's weights take the record's precision. Inputs are images uint8 `[N, 3, H, W]` and
    image_sizes int64 `[N, 2]`; outputs scores float32 `[N, D]`, boxes float32 `[N, D, 4]` on the canvas and classes
    int64 `[N, D]` (class indices), padded as `Detections` are. Raises as `build` does.
    """
    network, postprocess = detector.network, detector.postprocess
    model = _network_graph(network, record)
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
        half=record.precision == "fp16",
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


class _Heads(nn.Module):
    """The network with outputs that an exporter knows: all logits, then all deltas."""

    def __init__(self, network: RetinaNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        outputs: HeadOutputs = self.network(images, image_sizes)
        return (*outputs.logits, *outputs.deltas)


def _network_graph(network: RetinaNet, record: ArtifactRecord) -> ir.Model:
    """The network alone as a graph; its outputs are all logits, then all deltas."""
    extras.require("onnxscript", "export", "Exporting to ONNX")
    if record.precision == "fp16":
        network.half()
    fewest, _, most = record.batch
    # An example of 1 would make the batch a constant of the graph.
    count = fewest if fewest == most else 2
    images = torch.zeros(count, 3, *record.canvas, dtype=torch.uint8)
    image_sizes = torch.tensor([record.canvas] * count)
    batch = {} if fewest == most else {0: torch.export.Dim("batch")}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(
                _Heads(network).eval(),
                (images, image_sizes),
                dynamo=True,
                opset_version=OPSET,
                input_names=INPUTS,
                dynamic_shapes=(batch, batch),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        names = ", ".join(backbone.name for backbone in network.record.backbones)
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(f"PyTorch cannot write {names} as an ONNX graph: {reason}; use another backbone.") from error
    assert program is not None
    _strip(program.model)
    return program.model  # type: ignore[no-any-return]


def _strip(model: ir.Model) -> None:
    """Take out what the exporter says about its own work: it holds paths of this machine, and outweighs the graph."""
    for part in (model, model.graph, *model.graph, *(value for node in model.graph for value in node.outputs)):
        part.metadata_props.clear()
        part.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.producer_name, model.producer_version = "retinanet", None


def _set_outputs(model: ir.Model, outputs: tuple[ir.Value, ...], detections: int) -> None:
    import onnx_ir as ir

    batch = model.graph.inputs[0].shape[0]  # type: ignore[index]
    shapes = ((batch, detections), (batch, detections, 4), (batch, detections))
    types = (ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.INT64)
    model.graph.outputs.clear()
    for value, name, shape, dtype in zip(outputs, OUTPUTS, shapes, types, strict=True):
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)
        model.graph.outputs.append(value)
