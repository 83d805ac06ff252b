"""Tables (b) of infer.py: from pictures that lie on the device to detections that do."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from contestants import (
    DEVICE,
    GPU,
    POSTPROCESS,
    agreement,
    calibrate_on_noise,
    detect_by_peer,
    noise,
    resize_in_peer,
)
from printout import say
from timing import Call, Spread, begin_table, captured, row
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from retinanet.config import PredictConfig
from retinanet.model.checkpoint import save_checkpoint
from retinanet.model.network import RetinaNet
from retinanet.predict.predictor import load
from retinanet.predict.runtimes.base import Runtime
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.types import HeadOutputs

Size = tuple[int, int]


def measure_tensors(network: RetinaNet, peer: nn.Module, arguments: argparse.Namespace) -> None:
    """A table for each size; the models are made ready once, with weights calibrated on noise of the first."""
    sizes: list[Size] = [(height, width) for height, width in arguments.size]
    candidates = calibrate_on_noise(network, peer, sizes[0])
    runtimes = _open_runtimes(network, arguments.models)
    say()
    say("## (b) Tensor → detections")
    say()
    say(f"Candidates above the threshold in noise of {_name(sizes[0])}: {candidates}.")
    say(f"Ours beside ours, eager: {agreement(runtimes['ours'], runtimes['ours, eager'], noise(1, sizes[0]))}.")
    sizes += [runtime.canvas for runtime in runtimes.values() if runtime.canvas and runtime.canvas not in sizes]
    for size in dict.fromkeys(sizes):
        _table(size, runtimes, network, peer, arguments)


def _open_runtimes(network: RetinaNet, models: Sequence[Path]) -> dict[str, Runtime]:
    config = PredictConfig(device=str(DEVICE))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        save_checkpoint(path, network=network, training_state=None)
        runtimes: dict[str, Runtime] = {"ours": load(path, config=config).runtime}
    eager = RetinaNet(network.record)
    eager.load_state_dict(network.state_dict())
    runtimes["ours, eager"] = TorchRuntime(eager, postprocess=POSTPROCESS, device=DEVICE)
    return runtimes | {path.name: load(path, config=config).runtime for path in models}


def _table(
    size: Size, runtimes: dict[str, Runtime], network: RetinaNet, peer: nn.Module, arguments: argparse.Namespace
) -> None:
    batches = arguments.batches
    begin_table(_name(size), batches)
    floor = None
    if GPU:
        flops = _count_flops(network, size)
        floor = partial(_floor, flops, arguments.peak)
        title = f"floor: {flops / 1e9:.0f} GFLOP an image at {arguments.peak:.0f} TFLOP/s"
        say(row(title, batches, lambda count: Spread(*[_floor(flops, arguments.peak, count)] * 3)))
    for name, runtime in runtimes.items():
        if runtime.canvas in (None, size):
            say(row(f"{name} ({type(runtime).__name__})", batches, partial(_run, runtime, size), floor))
    detector = runtimes["ours"].detector  # type: ignore[attr-defined]  # a checkpoint's runtime has one
    say(row("… its network", batches, partial(_network, detector, size), floor))
    say(row("… its decode + NMS", batches, partial(_postprocessing, detector, size)))
    resize_in_peer(peer, min(size), max(size))
    say(row("torchvision, autocast", batches, lambda n: partial(detect_by_peer, peer, noise(n, size)[0]), floor))


def _run(runtime: Runtime, size: Size, count: int) -> Call | None:
    fewest, most = runtime.batch or (count, count)
    return partial(runtime, *noise(count, size)) if fewest <= count <= most else None


def _network(detector: nn.Module, size: Size, count: int) -> Call:
    """Captured, as the runtime does it: only then do the heads' levels run side by side (`fusion.streams`)."""
    inputs = noise(count, size)

    @torch.inference_mode()
    def call() -> object:
        return detector.network(*inputs)

    return captured(call)


def _postprocessing(detector: nn.Module, size: Size, count: int) -> Call:
    """The detector on what its network says, which is computed beforehand."""
    network, inputs = detector.network, noise(count, size)
    with torch.inference_mode():
        outputs: HeadOutputs = network(*inputs)

    @torch.inference_mode()
    def call() -> object:
        forward, network.forward = network.forward, lambda *_: outputs
        try:
            return detector(*inputs)
        finally:
            network.forward = forward

    return captured(call)


def _floor(flops: int, peak: float, count: int) -> float:
    """The ms of `count` images of so many FLOPs at `peak` TFLOP/s."""
    return 1e3 * count * flops / (peak * 1e12)


def _count_flops(network: RetinaNet, size: Size) -> int:
    """Of one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(*noise(1, size))
    return counter.get_total_flops()


def _name(size: Size) -> str:
    return f"{size[0]}×{size[1]}"
