"""The loaders alone, from files to batches on the device: DALI's and PyTorch's beside a torchvision one, in one run.

    python benchmarks/loaders.py --images DIR --annotations FILE [--threads 1 4 8 12] [--device cuda] [--out FILE]

First both loaders of ours are compared with each other: pixels, boxes, ids. Then images/s of each by the number of
threads (DALI's; worker processes of the others), as the median of windows of `--window` batches, with the 10th and 90th
percentile, from the third window on: before, queues are filled and kernels are loaded. All show the same resized
pictures, unaugmented, on the same canvases. The peer decodes with torchvision and resizes with its transforms in a
DataLoader.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import printout
import torch
import torchvision
from printout import say
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional

from retinanet.data.coco import read_annotations
from retinanet.data.encoded import encode
from retinanet.data.loader import Loader
from retinanet.data.loading import choose_loader, make_loader
from retinanet.data.preparation import Preparation
from retinanet.data.sampler import BLANK, TrainPlan
from retinanet.data.torch_loader import BatchMaker
from retinanet.errors import UsageError
from retinanet.preprocess import group_by_canvas, resized_size

warnings.filterwarnings("ignore", category=DeprecationWarning)  # torchvision's decoders: they are the peer


class Torchvision(Dataset):
    """Step → uint8 `[N, 3, H, W]`: what a torchvision user writes."""

    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation

    def __getitem__(self, step: int) -> torch.Tensor:
        plan = self.preparation.batch(step)
        batch = torch.zeros(len(plan.indices), 3, *plan.canvas, dtype=torch.uint8)
        for slot, index in enumerate(plan.indices.tolist()):
            if index != BLANK:
                path = str(self.preparation.data.image_path(index))
                image = torchvision.io.decode_image(path, mode=torchvision.io.ImageReadMode.RGB)
                height, width = resized_size(*image.shape[1:], self.preparation.resize, self.preparation.max_size)
                resized = functional.resize(image, [height, width], antialias=True)
                batch[slot, :, :height, :width] = resized[:, : plan.canvas[0], : plan.canvas[1]]
        return batch


def torchvision_batches(preparation: Preparation, steps: range, workers: int, device: torch.device) -> Iterator[int]:
    batches = DataLoader(
        Torchvision(preparation),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        collate_fn=lambda item: item,
    )
    for batch in batches:
        yield len(batch.to(device, non_blocking=True))


def our_batches(loader: Loader) -> Iterator[int]:
    for batch in loader:
        yield len(batch.images)


def measure(batches: Iterator[int], device: torch.device, window: int) -> list[float]:
    """Images/s of each window."""
    speeds: list[float] = []
    began, images = time.perf_counter(), 0
    for number, count in enumerate(batches, start=1):
        images += count
        if number % window == 0:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            now = time.perf_counter()
            speeds.append(images / (now - began))
            began, images = now, 0
    return sorted(speeds[2:])


def compare(preparation: Preparation, device: torch.device, batches: int) -> None:
    """Both loaders of ours must show the same."""
    shared = (preparation.data, preparation.plan, preparation.resize, preparation.max_size)
    ours = [make_loader(kind, device, *shared, workers=2, total_steps=batches) for kind in ("dali", "torch")]
    total = apart = far = box = 0.0
    for dali, plain in zip(*ours, strict=True):
        assert torch.equal(dali.image_ids, plain.image_ids)
        assert torch.equal(dali.labels, plain.labels)
        box = max(box, (dali.boxes - plain.boxes).abs().max().item())
        # Inside the pictures, whose sizes the loaders agree on.
        rows = torch.arange(dali.images.shape[2], device=device) < dali.image_sizes[:, :1]
        columns = torch.arange(dali.images.shape[3], device=device) < dali.image_sizes[:, 1:]
        inside = (rows[:, None, :, None] & columns[:, None, None, :]).expand(-1, 3, -1, -1)
        differences = (dali.images.int() - plain.images.int()).abs()[inside]
        total += differences.numel()
        apart += differences.sum().item()
        far += (differences > 8).sum().item()
    say(
        f"Both loaders, {batches} batches: grey levels differ by {apart / total:.3f} in the mean, by more than 8 in "
        f"{far / total:.4%} of the pixels; boxes by at most {box:.3f} pixels"
    )
    assert apart / total <= 1
    assert far / total <= 0.001
    assert box < 0.5


def reading_cost(preparation: Preparation, batches: int) -> None:
    """What Python does for each image that DALI draws: reading, header, view, boxes. One thread, files in the cache."""
    maker, plans = BatchMaker(preparation), [preparation.batch(step) for step in range(batches)]
    costs = []
    for repetition in range(4):
        for plan in plans:
            began = time.thread_time()
            encode(maker, plan, ())
            if repetition:
                costs.append((time.thread_time() - began) / len(plan.indices) * 1e6)
    costs.sort()
    say(f"Python's part of an image for DALI: {statistics.median(costs):.0f} µs of CPU ({spread(costs, '.0f')})")


def spread(values: list[float], style: str) -> str:
    low, high = (values[round(q * (len(values) - 1))] for q in (0.1, 0.9))
    return f"{low:{style}}–{high:{style}}"


def batches_of(kind: str, preparation: Preparation, device: torch.device, threads: int, steps: range) -> Iterator[int]:
    """How many images come, batch by batch, from one of our loaders or from the peer."""
    if kind == "peer":
        return torchvision_batches(preparation, steps, threads, device)
    shared = (preparation.data, preparation.plan, preparation.resize, preparation.max_size)
    return our_batches(make_loader(kind, device, *shared, workers=threads, total_steps=len(steps)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 8, 12])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--resize", type=int, default=800)
    parser.add_argument("--max-size", type=int, default=1333)
    parser.add_argument("--windows", type=int, default=12, help="measured in each run, two more to begin with")
    parser.add_argument("--window", type=int, default=10, help="batches in one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="also write what is printed to this file, as it comes")
    options = parser.parse_args()
    printout.keep(options.out)
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device(options.device)
    torch.set_num_threads(1)

    data = read_annotations(options.annotations, options.images)
    canvas_of_image, canvases = group_by_canvas(data.sizes, options.resize, options.max_size)
    plan = TrainPlan(canvas_of_image, canvases, options.batch, seed=0)
    preparation = Preparation(data, plan, options.resize, options.max_size)
    steps = range((options.windows + 2) * options.window)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    say(f"{name}, {len(os.sched_getaffinity(0))} cores, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    say(f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}, {len(data)} images, canvases {canvases}")
    kinds = ["dali", "torch"]
    try:
        choose_loader("dali", device)
        reading_cost(preparation, min(8, plan.steps_per_epoch))
    except UsageError as error:
        kinds.remove("dali")
        say(str(error))
    say()
    say("| threads | DALI, images/s | torch, images/s | torchvision, images/s |")
    say("|---|---|---|---|")
    for threads in options.threads:
        cells = [] if "dali" in kinds else ["–"]
        for kind in [*kinds, "peer"]:
            speeds = measure(batches_of(kind, preparation, device, threads, steps), device, options.window)
            cells.append(f"{statistics.median(speeds):.0f} ({spread(speeds, '.0f')})")
        say(f"| {threads} | {' | '.join(cells)} |")
    if "dali" in kinds:
        compare(preparation, device, min(8, plan.steps_per_epoch))


if __name__ == "__main__":
    main()
