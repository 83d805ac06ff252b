"""Stands in for TensorRT, which needs a GPU: what our code calls of it, and no more.

Its plans are the ONNX graph that was parsed, with what the builder was told before it. Its engines run that graph with
ONNX Runtime, on the memory whose addresses they are given, so that wrong pointers, shapes or names give wrong results.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
import types
from enum import Enum
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

GPU = torch.device("cuda", 0)
TYPES = {1: "FLOAT", 10: "HALF", 3: "INT8", 17: "FP8"}


def put_gpu(patch: pytest.MonkeyPatch, name: str = "NVIDIA H100", capability: tuple[int, int] = (9, 0)) -> None:
    """Let PyTorch say that there is a GPU. Nothing can be placed on it."""
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: 1)
    patch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    patch.setattr(torch.cuda, "get_device_name", lambda device: name)
    patch.setattr(torch.cuda, "set_device", lambda device: None)
    patch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())


def put_tensorrt(patch: pytest.MonkeyPatch, **modules: types.ModuleType | None) -> None:
    """Let these be installed, of `tensorrt` and `tensorrt_rtx`, and the other not."""
    for name in ("tensorrt", "tensorrt_rtx"):
        patch.setitem(sys.modules, name, modules.get(name))


def stub_wheel() -> types.ModuleType:
    """A wheel that holds nothing: it imports, and fails when it is used."""

    class Logger:
        ERROR = 1

        def __init__(self, severity: int) -> None:
            raise RuntimeError("libnvinfer.so.10 was not found\nand so on")

    module = types.ModuleType("tensorrt")
    module.Logger = Logger  # type: ignore[attr-defined]
    return module


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self, severity: int = WARNING) -> None:
        self.severity = severity


class IProgressMonitor:
    pass


class LayerType(Enum):
    CONVOLUTION, DEQUANTIZE, OTHER = range(3)


class Config:
    def __init__(self) -> None:
        self.flags = {"TF32"}
        self.profiles: list[dict[str, tuple]] = []
        self.progress_monitor: Any = None
        self.profiling_verbosity: str | None = None
        self.num_compute_capabilities = 0
        self.compute_capabilities: dict[int, int] = {}

    def set_compute_capability(self, capability: int, index: int) -> None:
        assert index < self.num_compute_capabilities
        self.compute_capabilities[index] = capability

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile.shapes)


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple] = {}

    def set_shape(self, name: str, least: tuple, usual: tuple, most: tuple) -> None:
        self.shapes[name] = (least, usual, most)


class Tensor:
    def __init__(self, name: str, dtype: str = "", shape: tuple = ()) -> None:
        self.name, self.dtype, self.shape = name, types.SimpleNamespace(name=dtype), shape


class Network:
    """Convolutions typed as their weights are, or as what is dequantised before them."""

    name = ""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.layers: list[Any] = []
        self.inputs: list[Tensor] = []

    def read(self, graph: bytes) -> None:
        self.graph = graph
        model = onnx.load_from_string(graph)
        stored = {tensor.name: TYPES.get(tensor.data_type, "OTHER") for tensor in model.graph.initializer}
        for node in model.graph.node:
            first, weight = (*node.input, "", "")[:2]
            kind = {"Conv": LayerType.CONVOLUTION, "DequantizeLinear": LayerType.DEQUANTIZE}
            dtype = stored.get(weight, "FLOAT") if node.op_type == "Conv" else "INT8"
            layer = types.SimpleNamespace(name=node.name, type=kind.get(node.op_type, LayerType.OTHER))
            layer.get_input = lambda index, name=first, dtype=dtype: Tensor(name, dtype)
            layer.get_output = lambda index, node=node: Tensor(node.output[index])
            self.layers.append(layer)
        for value in model.graph.input:
            sides = (side.dim_value or -1 for side in value.type.tensor_type.shape.dim)
            self.inputs.append(Tensor(value.name, shape=tuple(sides)))

    num_layers = property(lambda self: len(self.layers))
    num_inputs = property(lambda self: len(self.inputs))

    def get_layer(self, index: int) -> Any:
        return self.layers[index]

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]


class Context:
    def __init__(self, graph: bytes, profile: dict[str, tuple]) -> None:
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.profile = profile
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple] = {}
        self.streams: list[int] = []

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple) -> bool:
        self.shapes[name] = shape
        least, _, most = self.profile[name]
        return all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))

    def execute_async_v3(self, stream: int) -> bool:
        self.streams.append(stream)
        kinds = {"images": np.uint8, "image_sizes": np.int64}
        feed = {name: self._memory(name, shape, kinds[name]).copy() for name, shape in self.shapes.items()}
        for value, found in zip(self.session.get_outputs(), self.session.run(None, feed), strict=True):
            self._memory(value.name, found.shape, found.dtype)[:] = found
        return True

    def _memory(self, name: str, shape: tuple, dtype: Any) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = (ctypes.c_char * size).from_address(self.addresses[name])
        return np.frombuffer(raw, dtype).reshape(shape)


class Engine:
    def __init__(self, header: dict, graph: bytes, becomes: str | None) -> None:
        self.name, self.header, self.graph, self.becomes = header["name"], header, graph, becomes

    def create_execution_context(self) -> Context:
        self.context = Context(self.graph, self.header["profiles"][0])
        return self.context

    def create_engine_inspector(self) -> Any:
        """Says of each convolution what the network says, or `becomes`."""
        network = Network(1)
        network.read(self.graph)
        words = {"FLOAT": "Row major linear FP32", "HALF": "Channel major FP16 format where channel % 8 == 0"}
        layers: list[Any] = []
        for layer in network.layers:
            if layer.type == LayerType.CONVOLUTION:
                kind = self.becomes or words[layer.get_input(0).dtype.name]
                tensors = [{"Name": "half", "Format/Datatype": kind}]
                metadata = f"[ONNX Layer: node_Mul_1]\x1e[ONNX Layer: {layer.name}]"
                layers.append(
                    {"Name": "fused", "LayerType": "conv", "Inputs": tensors, "Outputs": tensors, "Metadata": metadata}
                )
        text = json.dumps({"Layers": layers if self.becomes != "unknown" else ["fused"]})
        return types.SimpleNamespace(get_engine_information=lambda kind: text)


class FakeTensorRT(types.ModuleType):
    """The module. `becomes` is the type that its engines' layers get, whatever was asked for."""

    ILogger, Logger, IProgressMonitor, LayerType = ILogger, ILogger, IProgressMonitor, LayerType
    BuilderFlag = types.SimpleNamespace(TF32="TF32")
    ProfilingVerbosity = types.SimpleNamespace(DETAILED="detailed")
    LayerInformationFormat = types.SimpleNamespace(JSON="json")

    def __init__(self, version: str = "10.8.0.43", *, becomes: str | None = None, fails: str | None = None) -> None:
        super().__init__("tensorrt")
        self.__version__, self.becomes, self.fails = version, becomes, fails
        # The value of the flag is not the same in all versions.
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1 if version < "11" else 0)
        self.engines: list[Engine] = []

    def Builder(self, logger: Any) -> Any:
        def build(network: Network, config: Config) -> bytes | None:
            monitor = config.progress_monitor
            monitor.phase_start("Building engine", None, 2)
            for step in range(2):
                if not monitor.step_complete("Building engine", step):
                    return None
            monitor.phase_finish("Building engine")
            if self.fails:
                logger.log(ILogger.WARNING, "Something else.")
                logger.log(ILogger.ERROR, self.fails)
                return None
            header = {
                "version": self.__version__,
                "name": network.name,
                "network_flags": network.flags,
                "flags": sorted(config.flags),
                "profiles": config.profiles,
                "verbosity": config.profiling_verbosity,
                "compute_capabilities": sorted(config.compute_capabilities.values()),
            }
            return json.dumps(header).encode() + b"\n" + network.graph

        return types.SimpleNamespace(
            create_network=Network,
            create_builder_config=Config,
            create_optimization_profile=Profile,
            build_serialized_network=build,
        )

    def OnnxParser(self, network: Network, logger: Any) -> Any:
        def parse(graph: bytes) -> bool:
            network.read(graph)
            return True

        return types.SimpleNamespace(parse=parse, num_errors=0)

    def Runtime(self, logger: Any) -> Any:
        def deserialize(plan: bytes) -> Engine | None:
            text, _, graph = plan.partition(b"\n")
            try:
                header = json.loads(text)
                onnx.load_from_string(graph)
            except Exception:
                logger.log(ILogger.ERROR, "Serialization assertion failed.")
                return None
            if header["version"] != self.__version__:
                logger.log(ILogger.ERROR, "Version tag does not match.")
                return None
            self.engines.append(Engine(header, graph, self.becomes))
            return self.engines[-1]

        return types.SimpleNamespace(deserialize_cuda_engine=deserialize)


class FakeTensorRTRTX(FakeTensorRT):
    """TensorRT-RTX, which builds for many GPUs, and can say beforehand whether a plan fits this one."""

    ComputeCapability = types.SimpleNamespace(SM80=80, SM86=86, SM89=89, SM120=120)
    EngineValidity = types.SimpleNamespace(VALID=0, INVALID=2)
    EngineInvalidityDiagnostics = Enum("EngineInvalidityDiagnostics", {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2})

    def __init__(self, version: str = "1.7.1.116", *, flaws: int = 0, **options: Any) -> None:
        super().__init__(version, **options)
        self.flaws = flaws

    def Runtime(self, logger: Any) -> Any:
        def validity(header: bytes) -> tuple[int, int]:
            assert len(header) == 64
            return (2 if self.flaws else 0), self.flaws

        runtime = super().Runtime(logger)
        runtime.engine_header_size, runtime.get_engine_validity = 64, validity
        return runtime
