"""The network alone as an ONNX graph, written by PyTorch's exporter."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from retinanet import extras
from retinanet.errors import ExportError
from retinanet.model.network import RetinaNet
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.types import HeadOutputs

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 20
INPUTS = ("images", "image_sizes")


def network_graph(network: RetinaNet, record: ArtifactRecord) -> ir.Model:
    """The network alone as a graph; its outputs are all logits, then all deltas."""
    extras.require("onnxscript", "export", "Exporting to ONNX")
    if record.half:
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


class _Heads(nn.Module):
    """The network with outputs that an exporter knows: all logits, then all deltas."""

    def __init__(self, network: RetinaNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        outputs: HeadOutputs = self.network(images, image_sizes)
        return (*outputs.logits, *outputs.deltas)


def _strip(model: ir.Model) -> None:
    """Take out what the exporter says about its own work: it holds paths of this machine, and outweighs the graph."""
    for part in (model, model.graph, *model.graph, *(value for node in model.graph for value in node.outputs)):
        part.metadata_props.clear()
        part.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.producer_name, model.producer_version = "retinanet", None
