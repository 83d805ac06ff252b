"""Training step: ours beside torchvision's RetinaNet on the same synthetic batch, in one run.

    python benchmarks/train.py [--batch 16] [--size 800 1344] [--steps 30] [--parts]

ResNet-50-FPN, 80 classes, bf16 autocast, channels-last, batch norm frozen, SGD with momentum. Images and boxes lie on
the GPU already. First compiled steps must give the eager losses; then it prints images/s (median of steps, with the
10th and 90th percentile), peak memory, seconds until the first step is done, and with --parts where the time goes.
Eager and compiled block by block, as `retinanet train` does, each with the first stages frozen (the default) and
without; of both, forward and backward pass are launched as one CUDA graph from the third step on. Another canvas and
fuller images follow, so that what is compiled anew shows.

    python benchmarks/train.py --photographs IMAGES ANNOTATIONS [--steps 300] [--workers 14]

trains on photographs with the torch loader, and says how long steps waited for their batches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from synthetic import synthetic_batch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision.models.detection import retinanet_resnet50_fpn

from retinanet.config import DataConfig, TrainConfig
from retinanet.data.coco import read_annotations
from retinanet.device import choose_workers, tune
from retinanet.model.checkpoint import create_record
from retinanet.model.network import RetinaNet
from retinanet.train.assembly import training_loader, training_plan, training_step
from retinanet.train.freezing import USUAL
from retinanet.train.step import TrainStep
from retinanet.types import Batch, ClassMap

CLASSES = 80
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = ("eager", "blocks")


def make_step(kind: str, freeze: int, backbone: str = "resnet50", classes: ClassMap | None = None) -> TrainStep:
    """A step of `retinanet train`, compiled as `kind` says. Weights are random, and each time the same."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    classes = classes or ClassMap(tuple(range(1, CLASSES + 1)), tuple(map(str, range(CLASSES))))
    record = create_record(
        classes, (backbone,), width=256, weights="pretrained", anchor_scale=4.0, resize=800, max_size=1333
    )
    network = RetinaNet(record).to(DEVICE).to(memory_format=torch.channels_last).train()
    network.members[0].freeze(freeze)
    return training_step(network, DataConfig(), TrainConfig(optimizer="sgd", lr=1e-4, compile=kind == "blocks"))


def ours(batch: Batch, kind: str, freeze: int) -> Callable[[Batch | None], object]:
    step = make_step(kind, freeze)
    return lambda other=None: step(other or batch, 1e-4)


def check(batch: Batch) -> None:
    """The first losses of compiled steps are the eager ones, within what bf16 rounds."""
    found, expected = (make_step(kind, USUAL)(batch, 0.0) for kind in ("blocks", "eager"))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-3)
    print("Checked: the losses of compiled steps are those of eager ones.")


def torchvisions(batch: Batch) -> Callable[[Batch | None], object]:
    """The same step with torchvision's model."""
    height, width = batch.images.shape[-2:]
    model = retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, min_size=height, max_size=width
    )
    return torchvisions_step(model, batch)


def torchvisions_step(model: nn.Module, batch: Batch) -> Callable[[Batch | None], object]:
    """Of one of its detectors, which resizes to its own sizes; batch norm is frozen."""
    model = model.to(DEVICE).to(memory_format=torch.channels_last).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-4, momentum=0.9, fused=DEVICE.type == "cuda")
    images = list((batch.images.float() / 255).unbind())
    targets: list[dict[str, Tensor]] = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0]}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]

    def step(other: Batch | None = None) -> None:
        assert other is None
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(name: str, make: Callable[[], Callable[..., object]], count: int, steps: int, parts: bool) -> None:
    forget_peak()
    began = time.perf_counter()
    step = make()
    step()
    wait()
    first = time.perf_counter() - began
    for _ in range(min(5, steps)):
        step()
    seconds = sorted(seconds_of(step) for _ in range(steps))
    low, median, high = (count / seconds[int(q * (steps - 1))] for q in (0.9, 0.5, 0.1))
    print(
        f"{name:<24} {median:7.1f} images/s ({low:.1f}–{high:.1f})  {1e3 * count / median:6.1f} ms  {peak():5.1f} GiB"
        f"  first step after {first:.1f} s",
        flush=True,
    )
    if parts:
        _print_kernels(step)


def measure_other_shapes(kind: str, batch: Batch) -> None:
    """Seconds of the first step on another canvas and of the first with fuller images, right after the usual one."""
    step = ours(batch, kind, USUAL)
    step()
    wait()
    count, _, height, width = batch.images.shape
    turned = synthetic_batch(count, width, height, DEVICE)
    fuller = synthetic_batch(count, height, width, DEVICE, slots=64)
    found = ", ".join(
        f"{name} {seconds_of(lambda other=other: step(other)):.1f} s"
        for name, other in (
            ("another canvas", turned),
            ("the next", synthetic_batch(count, height, height, DEVICE)),
            ("fuller images", fuller),
        )
    )
    print(f"{kind:<24} first step on {found}", flush=True)


def photographs(images: Path, annotations: Path, batch: int, steps: int, workers: int | None, resize: int) -> None:
    """Train on photographs; say how long the steps waited for the loader."""
    data = read_annotations(annotations, images)
    workers = choose_workers(workers)
    config = DataConfig(resize=resize, batch=batch, workers=workers)
    plan, train, cpu = training_plan(data, config, seed=0), TrainConfig(loader="torch"), torch.device("cpu")
    loader = training_loader(data, plan, config, train, cpu, start_step=0, total_steps=steps)
    step = make_step("blocks" if DEVICE.type == "cuda" else "eager", USUAL, classes=data.classes)
    batches, waited, worked = iter(loader), [], []
    while True:
        start = time.perf_counter()
        found = next(batches, None)
        if found is None:
            break
        ready = time.perf_counter()
        step(found, 1e-4)
        wait()
        waited.append(ready - start)
        worked.append(time.perf_counter() - ready)
    skip = steps // 3  # every canvas has come by then
    idle, work, images_seen = sum(waited[skip:]), sum(worked[skip:]), (len(worked) - skip) * batch
    verdict = "The loader is the limit." if idle > 0.1 * work else "The loader keeps up."
    print(
        f"{images_seen / (idle + work):.1f} images/s with {workers} workers, after {skip} steps; "
        f"{100 * idle / (idle + work):.0f} % of the time went into waiting for batches, "
        f"steps alone take {images_seen / work:.1f} images/s. {verdict}"
    )


def seconds_of(step: Callable[[], object]) -> float:
    wait()
    start = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def forget_peak() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> float:
    """GiB."""
    return torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else float("nan")


def _print_kernels(step: Callable[[], object]) -> None:
    """Where the GPU's time goes, by kind of kernel."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(3):
            step()
        wait()
    kinds: dict[str, float] = {}
    rows = [event for event in trace.key_averages() if event.self_device_time_total > 0]
    for event in rows:
        kinds[_kind(event.key)] = kinds.get(_kind(event.key), 0) + event.self_device_time_total / 3e3
    for kind, milliseconds in sorted(kinds.items(), key=lambda item: -item[1]):
        print(f"    {kind:<28} {milliseconds:7.2f} ms")
    for event in sorted(rows, key=lambda event: -event.self_device_time_total)[:60]:
        print(f"      {event.self_device_time_total / 3e3:7.2f} ms {event.count / 3:5.0f} × {event.key[:110]}")


def _kind(kernel: str) -> str:
    lower = kernel.lower()
    for kind, words in {
        "compiled pointwise/reduction": ("triton_",),  # first: their names say what they stand beside
        "convolution, weight gradient": ("wgrad",),
        "convolution, input gradient": ("dgrad", "bprop"),
        "convolution, forward": ("fprop", "conv", "xmma", "cutlass", "gemm", "implicit"),
        "focal loss": ("focal",),
        "optimiser": ("multi_tensor",),
    }.items():
        if any(word in lower for word in words):
            return kind
    return "other"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--only", nargs="+", choices=[*KINDS, "torchvision"], default=["torchvision", *KINDS])
    parser.add_argument("--parts", action="store_true", help="print where the time goes")
    parser.add_argument("--photographs", type=Path, nargs=2, metavar=("IMAGES", "ANNOTATIONS"))
    parser.add_argument("--workers", type=int)
    parser.add_argument("--resize", type=int, default=800)
    options = parser.parse_args()
    tune(DEVICE)
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU: a trial of this script"
    print(f"{name}, PyTorch {torch.__version__}, batch {options.batch}, {options.size}")
    if options.photographs:
        photographs(*options.photographs, options.batch, options.steps or 300, options.workers, options.resize)
        return
    batch, steps = synthetic_batch(options.batch, *options.size, DEVICE), options.steps or 30
    kinds = [kind for kind in KINDS if kind in options.only]
    if kinds == list(KINDS):
        check(batch)
    if "torchvision" in options.only:
        measure("torchvision", lambda: torchvisions(batch), options.batch, steps, False)
    for kind in kinds:
        for freeze in (USUAL, 0):
            measure(
                kind if freeze else f"{kind}, nothing frozen",
                lambda kind=kind, freeze=freeze: ours(batch, kind, freeze),
                options.batch,
                steps,
                options.parts,
            )
    if "blocks" in kinds:
        measure_other_shapes("blocks", batch)


if __name__ == "__main__":
    main()
