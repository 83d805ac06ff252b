"""Decode + NMS, the focal loss and recolouring beside torchvision's, on the same tensors, in one run on a GPU.

    python benchmarks/ops.py [--batches 1 8 32] [--out FILE]

The L2 cache is flushed before each measured call, so logits come from memory. Times are medians; the spread is from
the 10th to the 90th percentile.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import printout
import torch
import torchvision
import triton
from printout import say
from timing import captured, on_gpu
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.ops import sigmoid_focal_loss
from torchvision.transforms.v2 import ColorJitter
from workload import CENTRE_OFFSET, KINDS, Workload, make_workload

from retinanet.data.colour import draw_colours
from retinanet.model.anchors import grid_anchors
from retinanet.ops.decode import decode
from retinanet.ops.focal_loss import focal_loss
from retinanet.ops.nms import nms
from retinanet.ops.recolour import recolour_, reference
from retinanet.types import Detections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--out", type=Path, help="also write what is printed to this file, as it comes")
    arguments = parser.parse_args()
    printout.keep(arguments.out)

    say(f"{torch.cuda.get_device_name()}, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    say(f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}, Triton {triton.__version__}")
    bandwidth = copy_bandwidth()
    say(f"copying 1 GiB moves {bandwidth / 1e12:.2f} TB/s, read and written")
    say()
    postprocessing(arguments.batches, bandwidth)
    for kind in KINDS:
        kernels(kind)
    focal(bandwidth)
    recolouring(bandwidth)


def postprocessing(batches: list[int], bandwidth: float) -> None:
    say("## Decode + NMS, 800×1344, 80 classes, fp16, channels-last")
    say("MB: of logits; floor: reading them once at the copy's bandwidth; share: floor / graph")
    say()
    say("| workload | batch | CUDA graph, ms | eager, ms | torchvision, ms | times faster | MB | floor, ms | share |")
    say("|---|---|---|---|---|---|---|---|---|")
    for kind in KINDS:
        for batch in batches:
            workload = make_workload(kind, batch)
            logits_bytes = sum(level.nbytes for level in workload.outputs.logits)
            graph = measure(captured(partial(ours, workload)))
            eager = measure(partial(ours, workload))
            peer = measure(torchvision_peer(workload))
            floor = logits_bytes / bandwidth * 1e3
            say(
                f"| {kind} | {batch} | {show(graph)} | {show(eager)} | {show(peer)} | {peer[0] / graph[0]:.0f} "
                f"| {logits_bytes / 1e6:.0f} | {floor:.3f} | {floor / graph[0]:.0%} |"
            )
            del workload
            torch.cuda.empty_cache()
    say()


def ours(workload: Workload) -> Detections:
    outputs = workload.outputs
    candidates = decode(
        outputs.logits,
        outputs.deltas,
        workload.image_sizes,
        workload.cell_anchors,
        outputs.strides,
        centre_offset=CENTRE_OFFSET,
    )
    return nms(*candidates)


def torchvision_peer(workload: Workload) -> Callable[[], object]:
    """torchvision's post-processing; deltas as float32, since it decodes boxes in their dtype."""
    outputs, sizes = workload.outputs, workload.image_sizes.tolist()
    backbone = torch.nn.Identity()
    backbone.out_channels = 256
    peer = RetinaNet(backbone, num_classes=80, detections_per_img=100)
    per_cell = workload.cell_anchors.shape[1]
    by_anchor = [
        [level.permute(0, 2, 3, 1).reshape(len(sizes), -1, level.shape[1] // per_cell) for level in maps]
        for maps in (outputs.logits, outputs.deltas)
    ]
    heads = {"cls_logits": by_anchor[0], "bbox_regression": [level.float() for level in by_anchor[1]]}
    anchors = [
        grid_anchors(of_cell, (level.shape[2], level.shape[3]), stride, CENTRE_OFFSET)
        for of_cell, level, stride in zip(workload.cell_anchors, outputs.logits, outputs.strides, strict=True)
    ]
    return partial(peer.postprocess_detections, heads, [anchors] * len(sizes), sizes)


def kernels(kind: str, batch: int = 8) -> None:
    """Time on the GPU of each kernel, which the profiler sees without launch gaps."""
    workload = make_workload(kind, batch)
    ours(workload)
    calls = 20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            flush()
            ours(workload)
        torch.cuda.synchronize()
    say(f"## Kernels, {kind}, batch {batch}, µs a call")
    for event in sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total):
        if event.count and "Memset" not in event.key and "fill" not in event.key.lower():
            say(f"- {event.key[:60]}: {event.self_device_time_total / calls:.1f} in {event.count / calls:g} launches")
    say()


def focal(bandwidth: float, batch: int = 16, anchors: int = 201_600, classes: int = 80) -> None:
    say(f"## Focal loss, forward + backward, batch {batch}, 800×1344 ({anchors} anchors), {classes} classes, bf16")
    logits = torch.randn(batch, anchors, classes, device="cuda").sub_(4.6).bfloat16().requires_grad_()
    labels = torch.randint(classes, (batch, anchors), device="cuda")
    labels = labels.where(torch.rand(batch, anchors, device="cuda") < 1e-3, -1)

    def our_step() -> None:
        logits.grad = None
        focal_loss(logits, labels).backward()

    def peer_step(targets: Tensor) -> None:
        logits.grad = None
        sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0, reduction="sum").backward()

    for name, prepare in (
        ("ours", lambda: our_step),
        ("torchvision", lambda: partial(peer_step, one_hot(labels, classes, logits.dtype))),
    ):
        logits.grad = None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step = prepare()
        step()
        peak = torch.cuda.max_memory_allocated() - before
        say(f"- {name}: {show(measure(step))} ms, peak {peak / 2**30:.2f} GiB above the logits")
        del step
    say(f"- floor: {3 * logits.nbytes / bandwidth * 1e3:.3f} ms (logits read twice, gradient written)")


def recolouring(bandwidth: float, batch: int = 16) -> None:
    """The peer takes one draw for the whole batch, which is the least it can do."""
    say()
    say(f"## Recolouring, batch {batch}, 800×1344, uint8, channels-last")
    images = torch.randint(0, 256, (batch, 3, 800, 1344), dtype=torch.uint8, device="cuda")
    images = images.contiguous(memory_format=torch.channels_last)
    sizes = torch.tensor([[800, 1344]] * batch, device="cuda")
    random = np.random.default_rng(0)
    matrices = torch.from_numpy(np.stack([draw_colours(0.4, random) for _ in range(batch)])).cuda()
    peer = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05)
    for name, function in (
        ("ours", partial(recolour_, images, sizes, matrices)),
        ("ours without Triton", partial(reference.recolour_, images, sizes, matrices)),
        ("torchvision's ColorJitter", partial(peer, images)),
    ):
        say(f"- {name}: {show(measure(function))} ms")
    say(f"- floor: {2 * images.nbytes / bandwidth * 1e3:.3f} ms (each byte read and written)")


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    return (labels[..., None] == torch.arange(classes, device=labels.device)).to(dtype)


def measure(function: Callable[[], object], seconds: float = 1.0) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile in ms of at least 5 calls."""
    function()
    torch.cuda.synchronize()
    times, end = [], time.monotonic() + seconds
    while len(times) < 5 or (time.monotonic() < end and len(times) < 500):
        flush()
        times.append(on_gpu(function))
    deciles = statistics.quantiles(times, n=10)
    return statistics.median(times), deciles[0], deciles[-1]


def flush() -> None:
    """Fill the L2 cache with something else."""
    torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda").zero_()


def copy_bandwidth() -> float:
    source = torch.zeros(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (measure(lambda: target.copy_(source))[0] * 1e-3)


def show(times: tuple[float, float, float]) -> str:
    return f"{times[0]:.3f} ({times[1]:.3f}–{times[2]:.3f})"


if __name__ == "__main__":
    main()
