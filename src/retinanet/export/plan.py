"""From any ONNX graph to a TensorRT plan. One path for TensorRT 10, TensorRT 11 and TensorRT-RTX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from retinanet.device import device_context
from retinanet.errors import ExportError
from retinanet.export.plan_precision import network_precisions, require_precision
from retinanet.export.plan_progress import BuildProgress
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.plan_name import plan_name
from retinanet.predict.runtimes.tensorrt_library import Library

if TYPE_CHECKING:
    import onnx

PORTABLE = ("8.0", "8.6", "8.9", "12.0")
"""What TensorRT-RTX builds for unless it is told otherwise; later GPUs of a generation run it too."""
PORTABLE_FP8 = ("8.9", "12.0")
"""Those of them that have FP8."""


class Plan(NamedTuple):
    """What `build_plan` has made."""

    record: ArtifactRecord
    """With the versions, compute capabilities and size of the plan."""
    precisions: dict[str, str]
    """Name of each convolution of the network → what it computes in."""


def build_plan(
    graph: onnx.ModelProto, record: ArtifactRecord, out: Path, library: Library, device: torch.device
) -> Plan:
    """Build the plan of `graph`, write it to `out` and complete its record, which is also the plan's name.

    `graph` has the inputs and outputs of `detector_graph`; what its tensors are typed as is what is computed in, for
    the network is strongly typed. Its batch is dynamic, or the one number of the record. `library` is of
    `libraries_for(device)`: TensorRT builds for `device`, TensorRT-RTX for all RTX GPUs.

    Raises:
        ModelError: TensorRT cannot start, for want of a driver for example.
        ExportError: TensorRT cannot build it, or the network does not compute in the record's precision.
        KeyboardInterrupt: the build was cancelled; nothing is written.
    """
    trt = library.module
    record = replace(
        record,
        device="cuda",
        compute_capabilities=_compute_capabilities(record, library, device),
        versions={**record.versions, library.key: library.version},
    )
    library.logger.errors.clear()
    with device_context(device):
        builder = library.start("Builder")
    # The value of the flag differs between versions.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(graph.SerializeToString()):
        problem = parser.get_error(0) if parser.num_errors else None
        reason = f"{problem.node_name()}: {problem.desc()}" if problem else library.reason()
        raise ExportError(f"{library} cannot read the graph of {record.source} ({reason}); upgrade it.")
    precisions = network_precisions(network, trt)
    require_precision(precisions, record)
    network.name = plan_name(record)
    plan = _build(builder, network, record, library, device)
    if plan is None:
        raise ExportError(
            f"{library} cannot build {record.source} ({library.reason()}); try another --precision, --size or --batch, "
            "or another version of it."
        )
    out.write_bytes(plan)
    return Plan(replace(record, file_bytes=out.stat().st_size), precisions)


def _compute_capabilities(record: ArtifactRecord, library: Library, device: torch.device) -> tuple[str, ...]:
    """Of the GPUs that the plan is going to be for."""
    if library.portable:
        return PORTABLE_FP8 if record.precision == "fp8" else PORTABLE
    major, minor = torch.cuda.get_device_capability(device)
    return (f"{major}.{minor}",)


def _build(builder: Any, network: Any, record: ArtifactRecord, library: Library, device: torch.device) -> Any:
    """The plan as bytes, None where TensorRT failed."""
    progress = BuildProgress()
    config = _config(builder, network, record, library)
    monitor = progress.monitor(library.module)  # held here for as long as TensorRT may call it
    config.progress_monitor = monitor

    def build() -> Any:
        with device_context(device):  # each thread has its own
            return builder.build_serialized_network(network, config)

    return progress.run(build)


def _config(builder: Any, network: Any, record: ArtifactRecord, library: Library) -> Any:
    trt = library.module
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the engine can be asked what it computes in
    config.clear_flag(trt.BuilderFlag.TF32)  # whoever asks for fp32 gets it
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    if any(tensor.shape[0] == -1 for tensor in inputs):
        profile = builder.create_optimization_profile()
        for tensor in inputs:
            profile.set_shape(tensor.name, *((count, *tuple(tensor.shape)[1:]) for count in record.batch))
        config.add_optimization_profile(profile)
    if library.portable:
        config.num_compute_capabilities = len(record.compute_capabilities)
        for index, capability in enumerate(record.compute_capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), index)
    return config
