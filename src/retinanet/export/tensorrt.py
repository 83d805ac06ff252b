"""The whole detector as a TensorRT plan: for this GPU by TensorRT, or for all RTX GPUs by TensorRT-RTX."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from retinanet import extras
from retinanet.config import PostprocessConfig
from retinanet.errors import UsageError
from retinanet.export.describe import Built
from retinanet.export.onnx import detector_graph
from retinanet.export.plan import Plan, build_plan
from retinanet.export.plan_precision import in_words, require_engine_precision
from retinanet.export.quantize import Ranges
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.onnx import OnnxRuntime
from retinanet.predict.runtimes.tensorrt import misfit, open_engine
from retinanet.predict.runtimes.tensorrt_library import Library, libraries_for

if TYPE_CHECKING:
    import onnx

MOST_SORTED = 3840
"""TensorRT's TopK takes no more."""


def build(
    detector: Detector, record: ArtifactRecord, out: Path, device: torch.device, ranges: Ranges | None = None
) -> Built:
    """Write `out`, with the fixed form of NMS inside. Inputs and outputs are those of an ONNX file.

    Raises:
        UsageError: a package is missing, or more candidates or detections are asked for than TensorRT sorts.
        ExportError: the network cannot be written as a graph, TensorRT cannot build it, or the precision that came out
            is not the one asked for.
    """
    _require_sortable(record.postprocess)
    library = libraries_for(device)[0]
    extras.require("onnxruntime", "export", "Verifying a plan")  # before minutes of work
    ir = extras.require("onnx_ir", "export", "Building a plan")
    graph = ir.to_proto(detector_graph(detector, record, nms="fixed", ranges=ranges))
    return describe_plan(graph, build_plan(graph, record, out, library, device), out, library, device)


def describe_plan(graph: onnx.ModelProto, plan: Plan, out: Path, library: Library, device: torch.device) -> Built:
    """What there is to say of the plan at `out`, whose layers are inspected if this machine can run it.

    If it cannot, its graph, run by ONNX Runtime, stands in for the comparison with the checkpoint.

    Raises:
        ExportError: a layer of the engine computes in another precision than its graph says.
    """
    capabilities = ", ".join(plan.record.compute_capabilities)
    lines = [f"Built by {library} for GPUs of compute capability {capabilities}."]
    counts = in_words(Counter(plan.precisions.values()))
    why = misfit(out, plan.record, library, device)
    if why is None:
        engine = open_engine(out, library, device)
        lines.append(f"{counts}: {require_engine_precision(engine, library.module, plan.precisions)}.")
        return Built(plan.record, tuple(lines))
    lines.append(f"{counts}, as the network says; the engine's own layers can be looked at only where it runs.")
    lines.append(f"It cannot run here: {why}. What is compared in its place is its graph, run by ONNX Runtime.")
    return Built(plan.record, tuple(lines), _graph_runtime(graph, plan.record))


def _graph_runtime(graph: onnx.ModelProto, record: ArtifactRecord) -> OnnxRuntime:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(graph.SerializeToString())
        return OnnxRuntime(path, record, None)  # it keeps all that it needs in memory


def _require_sortable(postprocess: PostprocessConfig) -> None:
    for option, count in (("--top-n", postprocess.top_n), ("--detections", postprocess.detections)):
        if count > MOST_SORTED:
            raise UsageError(f"TensorRT sorts out at most {MOST_SORTED}, but {option} is {count}; lower it.")
