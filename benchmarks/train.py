"""Training step: ours beside torchvision's RetinaNet on the same synthetic batch, in one run.

    python benchmarks/train.py [--batch 16] [--size 800 1344] [--steps 30]

ResNet-50-FPN, 80 classes, bf16 autocast, channels-last, batch norm frozen, SGD with momentum. Images and boxes lie on
the GPU already: the loader is measured elsewhere. Prints images/s (median of steps, with the 10th and 90th percentile),
peak memory, seconds until the first step is done, and with --parts where the GPU's time goes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision.models.detection import retinanet_resnet50_fpn

from retinanet.config import TrainConfig
from retinanet.device import tune
from retinanet.model.checkpoint import create_record
from retinanet.model.criterion import Criterion
from retinanet.model.network import RetinaNet
from retinanet.train.optim import build_optimizer
from retinanet.train.step import TrainStep
from retinanet.types import Batch, ClassMap

CLASSES = 80
BOXES = 16
DEVICE = torch.device("cuda")


def synthetic_batch(count: int, height: int, width: int, slots: int = 32) -> Batch:
    """Noise with `BOXES` boxes an image, of 16 to 216 pixels."""
    torch.manual_seed(0)
    corner = torch.rand(count, BOXES, 2) * torch.tensor([width - 220.0, height - 220.0])
    boxes = torch.zeros(count, slots, 4)
    boxes[:, :BOXES] = torch.cat([corner, corner + torch.rand(count, BOXES, 2) * 200 + 16], dim=-1)
    labels = torch.full((count, slots), -1)
    labels[:, :BOXES] = torch.randint(0, CLASSES, (count, BOXES))
    images = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    return Batch(
        images=images,
        image_sizes=torch.tensor([[height, width]]).repeat(count, 1),
        boxes=boxes,
        labels=labels,
        crowd=torch.zeros(count, slots, dtype=torch.bool),
        image_ids=torch.arange(count),
        transforms=torch.tensor([[1.0, 1.0, 0.0, 0.0]]).repeat(count, 1),
    ).to(DEVICE)


def ours(batch: Batch, compiled: bool) -> Callable[[], object]:
    """One step of `retinanet train`."""
    classes = ClassMap(tuple(range(1, CLASSES + 1)), tuple(map(str, range(CLASSES))))
    record = create_record(
        classes, ("resnet50",), width=256, weights="pretrained", anchor_scale=4.0, resize=800, max_size=1333
    )
    network = RetinaNet(record).to(DEVICE).to(memory_format=torch.channels_last).train()
    config = TrainConfig(optimizer="sgd", lr=1e-4)
    optimizer = build_optimizer(config, network, 1e-4)
    step = TrainStep(network, Criterion(network), optimizer, "bf16", config.clip_norm, compiled=compiled)
    return lambda: step(batch, 1e-4)


def torchvisions(batch: Batch) -> Callable[[], object]:
    """The same step with torchvision's model."""
    height, width = batch.images.shape[-2:]
    model = retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, min_size=height, max_size=width
    )
    model = model.to(DEVICE).to(memory_format=torch.channels_last).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9, fused=True)
    images = list((batch.images.float() / 255).unbind())
    targets: list[dict[str, Tensor]] = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0]}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(name: str, make: Callable[[], Callable[[], object]], count: int, steps: int, parts: bool) -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    step = make()
    step()
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    for _ in range(5):
        step()
    seconds = []
    for _ in range(steps):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    seconds.sort()
    low, median, high = (count / seconds[int(q * (steps - 1))] for q in (0.9, 0.5, 0.1))
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(
        f"{name:<24} {median:7.1f} images/s ({low:.1f}–{high:.1f})  {1e3 * count / median:6.1f} ms  {peak:5.1f} GiB  "
        f"first step after {first:.1f} s",
        flush=True,
    )
    if parts:
        _print_kernels(step)


def _print_kernels(step: Callable[[], object]) -> None:
    """Where the GPU's time goes, by kind of kernel."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(3):
            step()
        torch.cuda.synchronize()
    kinds: dict[str, float] = {}
    rows = [event for event in trace.key_averages() if event.self_device_time_total > 0]
    for event in rows:
        kinds[_kind(event.key)] = kinds.get(_kind(event.key), 0) + event.self_device_time_total / 3e3
    for kind, milliseconds in sorted(kinds.items(), key=lambda item: -item[1]):
        print(f"    {kind:<28} {milliseconds:7.2f} ms")
    for event in sorted(rows, key=lambda event: -event.self_device_time_total)[:14]:
        print(f"      {event.self_device_time_total / 3e3:7.2f} ms {event.count / 3:5.0f} × {event.key[:110]}")


def _kind(kernel: str) -> str:
    lower = kernel.lower()
    for kind, words in {
        "convolution, weight gradient": ("wgrad",),
        "convolution, input gradient": ("dgrad", "bprop"),
        "convolution, forward": ("fprop", "conv", "xmma", "cutlass", "gemm", "implicit"),
        "focal loss": ("focal",),
        "optimiser": ("multi_tensor",),
        "compiled pointwise/reduction": ("triton_",),
    }.items():
        if any(word in lower for word in words):
            return kind
    return "other"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--only", choices=["eager", "compiled", "torchvision"])
    parser.add_argument("--parts", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    tune(DEVICE)
    batch = synthetic_batch(options.batch, *options.size)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, batch {options.batch}, {options.size}")
    runs: dict[str, Callable[[], Callable[[], object]]] = {
        "torchvision": lambda: torchvisions(batch),
        "eager": lambda: ours(batch, False),
        "compiled": lambda: ours(batch, True),
    }
    for name, make in runs.items():
        if options.only in (None, name):
            measure(name, make, options.batch, options.steps, options.parts and name != "torchvision")


if __name__ == "__main__":
    main()
