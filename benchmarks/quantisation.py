"""How activations are best cut off, and which convolutions bear 8 bits: quantisation imitated in PyTorch.

    PYTHONPATH=src python benchmarks/quantisation.py MODEL --images DIR --annotations FILE --calibration-images DIR

Errors are the mean differences from the exact network, at the 100 anchors of each image that it is surest of: of their
scores, and of their box deltas. AP is COCO's, on the export's canvas, as a difference from the exact network's.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retinanet.config import ExportConfig, PostprocessConfig
from retinanet.data.coco import read_annotations
from retinanet.data.images import read_image
from retinanet.export.accuracy import average_precision
from retinanet.export.describe import describe
from retinanet.export.observe import TOLD_APART, Magnitudes, observe
from retinanet.export.pictures import batch_of, choose
from retinanet.export.quantize import FP8_CHANNELS
from retinanet.model.checkpoint import build_network, load_checkpoint
from retinanet.model.network import RetinaNet
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.types import Batch

LARGEST = {"int8": 127.0, "fp8": 448.0}
GROUPS: dict[str, Callable[[str, nn.Conv2d], bool]] = {
    "the first": lambda name, conv: conv.in_channels == 3,
    "depthwise": lambda name, conv: conv.groups > 1,
    "others of the backbone": lambda name, conv: "backbones" in name and conv.groups == 1 and conv.in_channels > 3,
    "the pyramid": lambda name, conv: "pyramids" in name,
    "the heads, but the last": lambda name, conv: "head" in name,
    "all": lambda name, conv: True,
    "as exported to fp8": lambda name, conv: conv.groups == 1 and conv.in_channels % FP8_CHANNELS == 0,
}


def rounded(values: Tensor, largest: Tensor | float, precision: str) -> Tensor:
    scale = largest / LARGEST[precision]
    scaled = (values / scale).clamp(-LARGEST[precision], LARGEST[precision])
    return (scaled.round() if precision == "int8" else scaled.to(torch.float8_e4m3fn).float()) * scale


def quantile(part: float) -> Callable[[Magnitudes, str], float]:
    return lambda seen, _: float((np.searchsorted(seen.counts.cumsum() / seen.counts.sum(), part) + 1) * seen.width)


def least_squares(seen: Magnitudes, precision: str) -> float:
    values = torch.from_numpy((np.arange(len(seen.counts)) + 0.5) * seen.width).float()
    counts = torch.from_numpy(seen.counts)
    candidates = seen.largest * np.linspace(0.05, 1, 96)
    errors = [float(counts @ ((rounded(values, top, precision) - values).double() ** 2)) for top in candidates]
    return float(candidates[int(np.argmin(errors))])


METHODS: dict[str, Callable[[Magnitudes, str], float]] = {
    "the largest": lambda seen, _: seen.largest,
    "0.999 of all": quantile(0.999),
    "0.9999 of all": quantile(0.9999),
    f"{TOLD_APART} of all": quantile(TOLD_APART),
    "least mean squared error": least_squares,
}


@contextmanager
def quantised(network: RetinaNet, ranges: dict[str, list[float]], names: set[str], precision: str) -> Iterator[None]:
    """The network computes with rounded inputs and weights in the convolutions `names`."""
    exact, hooks, calls = {}, [], Counter[str]()

    def hook(name: str) -> Any:
        def round_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            calls[name] += 1
            return (rounded(inputs[0], max(ranges[name][calls[name] - 1], 1e-9), precision),)

        return round_input

    for name in names:
        conv: Any = network.get_submodule(name)
        exact[name] = conv.weight.data
        largest = conv.weight.data.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
        conv.weight.data = rounded(conv.weight.data, largest, precision)
        hooks.append(conv.register_forward_pre_hook(hook(name)))
    hooks.append(network.register_forward_pre_hook(lambda *_: calls.clear()))
    yield
    for handle in hooks:
        handle.remove()
    for name, weight in exact.items():
        network.get_submodule(name).weight.data = weight  # type: ignore[assignment]


@torch.inference_mode()
def outputs(network: RetinaNet, batches: list[Batch]) -> list[tuple[Tensor, Tensor]]:
    """Scores `[M, C]` and deltas `[M, 4]` of all anchors of each image."""
    found, anchors = [], len(network.record.cell_anchors[0])
    for batch in batches:
        heads = network(batch.images, batch.image_sizes)
        rows = [
            torch.cat(
                [maps[0].reshape(anchors, -1, maps[0][0].numel()).permute(2, 0, 1).flatten(0, 1) for maps in part]
            )
            for part in (heads.logits, heads.deltas)
        ]
        found.append((rows[0].sigmoid(), rows[1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--calibration-images", type=Path, required=True)
    parser.add_argument("--calibration-count", type=int, default=128)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}, {time.strftime('%Y-%m-%d')}, PyTorch {torch.__version__}")
    checkpoint = load_checkpoint(arguments.model)
    network, cpu = build_network(checkpoint).eval(), torch.device("cpu")
    record = describe(checkpoint.record, arguments.model, "onnx", ExportConfig(), PostprocessConfig(), cpu)
    data = read_annotations(arguments.annotations, arguments.images)
    scored = [data.image_path(int(index)) for index in np.linspace(0, len(data) - 1, 24)]
    batches = [batch_of([read_image(path)], 1, record) for path in scored]
    paths = choose(arguments.calibration_images, arguments.calibration_count)
    seen = observe(network, (batch_of([read_image(path)], 1, record) for path in paths))
    exact = outputs(network, batches)
    surest = [scores.amax(1).topk(100).indices for scores, _ in exact]
    runtime = TorchRuntime(network, postprocess=record.postprocess, device=cpu)
    base = average_precision(runtime, record, data, "Exact")
    print(f"{len(seen)} modules, AP {100 * base:.2f} on {len(data)} images\n")

    def errors() -> str:
        pairs = zip(exact, outputs(network, batches), surest, strict=True)
        found = [
            [(one[rows] - other[rows]).abs().mean() for one, other in zip(a, b, strict=True)] for a, b, rows in pairs
        ]
        return " | ".join(f"{value:.5f}" for value in np.mean(found, axis=0))

    def names(suits: Callable[[str, nn.Conv2d], bool]) -> set[str]:
        return {name for name in seen if suits(name, network.get_submodule(name))}  # type: ignore[arg-type]

    print("| precision | ranges by | error of scores | error of deltas |\n|---|---|---|---|")
    for precision in LARGEST:
        chosen = names(GROUPS["all" if precision == "int8" else "as exported to fp8"])
        for title, method in METHODS.items():
            ranges = {name: [method(call, precision) for call in calls] for name, calls in seen.items()}
            with quantised(network, ranges, chosen, precision):
                print(f"| {precision} | {title} | {errors()} |", flush=True)
    print("\n| precision | quantised | error of scores | error of deltas | AP |\n|---|---|---|---|---|")
    ranges = {name: [call.range for call in calls] for name, calls in seen.items()}
    for precision in LARGEST:
        for title, suits in GROUPS.items():
            with quantised(network, ranges, names(suits), precision):
                ap = 100 * (average_precision(runtime, record, data, title) - base)
                print(f"| {precision} | {title} | {errors()} | {ap:+.2f} |", flush=True)


if __name__ == "__main__":
    main()
