"""Is the precision that was asked for the precision that came out? Convolutions tell, for they do the work.

A strongly typed network says what each convolution computes in, and TensorRT must not change it. The engine's own
layers say what it has become, but only a GPU that the engine fits can open it to look.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from retinanet.errors import ExportError
from retinanet.predict.runtimes.artifact import ArtifactRecord

_OF_NETWORK = {"FLOAT": "fp32", "HALF": "fp16", "INT8": "int8", "FP8": "fp8"}
_OF_ENGINE = {"fp32": "fp32", "float": "fp32", "fp16": "fp16", "half": "fp16", "int8": "int8", "fp8": "fp8"}
_ENGINE_TYPE = re.compile(rf"\b({'|'.join(_OF_ENGINE)})\b", re.IGNORECASE)


def network_precisions(network: Any, module: Any) -> dict[str, str]:
    """Name of each convolution of the parsed network → what it computes in: of a quantised one, its input's type."""
    kinds = module.LayerType
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    quantised = {
        layer.get_output(0).name: layer.get_input(0).dtype.name for layer in layers if layer.type == kinds.DEQUANTIZE
    }
    found = {}
    for layer in layers:
        if layer.type == kinds.CONVOLUTION:
            source = layer.get_input(0)
            dtype = quantised.get(source.name, source.dtype.name)
            found[layer.name] = _OF_NETWORK.get(dtype, dtype)
    return found


def require_precision(precisions: Mapping[str, str], record: ArtifactRecord) -> None:
    """Raise `ExportError` where the network does not compute in what the record says."""
    counts = Counter(precisions.values())
    # Of a quantised network, some layers stay as they are.
    if not counts[record.precision] or (len(counts) > 1 and not record.quantised):
        raise ExportError(
            f"{record.precision} was asked for, but the network has {in_words(counts)}; use another --precision."
        )


def in_words(counts: Mapping[str, int]) -> str:
    """Such as 60 convolutions in int8 and 13 in fp16."""
    first, *others = (f"{count} convolutions in {name}" for name, count in Counter(counts).most_common())
    return " and ".join([first, *(part.replace(" convolutions", "") for part in others)])


def engine_precisions(engine: Any, module: Any, expected: Mapping[str, str]) -> dict[str, set[str]]:
    """Name of each convolution of `expected` that the engine's layers name → all types that its layer handles.

    TensorRT merges layers. Each still names those that it was made of, and lists the types that go in and out.
    """
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(module.LayerInformationFormat.JSON)
    found: dict[str, set[str]] = {}
    for layer in json.loads(text).get("Layers", []):
        # An engine that keeps no more has names in place of layers. A change of format computes nothing.
        if not isinstance(layer, dict) or layer.get("LayerType") == "Reformat":
            continue
        names = {*re.findall(r"\[ONNX Layer: ([^\]]*)\]", layer.get("Metadata", "")), *layer["Name"].split(" + ")}
        tensors = [*layer.get("Inputs", []), *layer.get("Outputs", []), layer.get("Weights", {})]
        texts = [str(tensor[key]) for tensor in tensors for key in tensor if key.endswith(("Datatype", "Type"))]
        types = {_OF_ENGINE[match.lower()] for words in texts for match in _ENGINE_TYPE.findall(words)}
        for name in names & expected.keys() if types else ():
            found.setdefault(name, set()).update(types)
    return found


def require_engine_precision(engine: Any, module: Any, expected: Mapping[str, str]) -> str:
    """What the engine's layers say, in words.

    Raises:
        ExportError: a convolution computes in another precision than its network says.
    """
    found = engine_precisions(engine, module, expected)
    wrong = [name for name, types in found.items() if expected[name] not in types]
    if wrong:
        raise ExportError(
            f"TensorRT built {len(wrong)} of {len(expected)} convolutions in another precision than was asked for "
            f"({wrong[0]}: {expected[wrong[0]]} became {', '.join(sorted(found[wrong[0]]))}); "
            "try another --precision or another version of TensorRT."
        )
    if not found:
        return "the engine does not say what its layers compute in, so that only the network was looked at"
    return f"the engine's layers confirm {len(found)} of them"
