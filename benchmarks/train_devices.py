"""Training on several devices: images/s and how far from linear, the batch of each device being the same.

    python benchmarks/train_devices.py [--devices 1 2 4] [--batch 16] [--size 800 1344] [--steps 20]

Checks first: the ranks must sum gradients rightly, and hold the same weights in the end. ResNet-50-FPN, 80 classes,
bf16 and compiled on GPUs, AdamW, synthetic batches that lie on the devices already. Prints for each number of devices,
once it is measured, the images/s of all together (median of 5 windows, least and most), the efficiency (of what so many
of the fewest devices would do), and what summing the gradients takes by itself. Without a GPU, to try the script:

    python benchmarks/train_devices.py --device cpu --devices 1 2 --batch 2 --size 96 128 --steps 2 \
      --backbone test_resnet --width 16
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import time
from contextlib import closing
from typing import NamedTuple

import torch
from synthetic import synthetic_batch

from retinanet.config import DataConfig, ModelConfig, TrainConfig
from retinanet.device import tune
from retinanet.model.checkpoint import create_record
from retinanet.model.network import RetinaNet
from retinanet.train.assembly import training_step
from retinanet.train.distributed import barrier, gather_rows, rank, sum_gradients, world_size
from retinanet.train.freezing import freeze_stages
from retinanet.train.ranks import process_group
from retinanet.train.step import TrainStep
from retinanet.types import ClassMap

CLASSES = 80
WINDOWS = 5


class Measured(NamedTuple):
    """Of one number of devices."""

    images_per_second: list[float]
    """Of all devices together, in each window."""
    sum_milliseconds: float
    gradient_mebibytes: float
    peak_gibibytes: float


def make_step(options: argparse.Namespace, device: torch.device) -> TrainStep:
    """As `retinanet train` makes it for a pretrained backbone."""
    torch.manual_seed(0)
    classes = ClassMap(tuple(range(1, CLASSES + 1)), tuple(map(str, range(CLASSES))))
    record = create_record(
        classes,
        (options.backbone,),
        width=options.width,
        weights="pretrained",
        anchor_scale=4.0,
        resize=min(options.size),
        max_size=max(options.size),
    )
    network = RetinaNet(record).to(device).to(memory_format=torch.channels_last).train()
    freeze_stages(network, ModelConfig())
    return training_step(network, DataConfig(), TrainConfig(lr=1e-5))


def check_sums(device: torch.device) -> None:
    """Every rank must come to the same sum."""
    parameter = torch.nn.Parameter(torch.zeros(1000, device=device))
    parameter.grad = torch.full((1000,), rank() + 1.0, device=device)
    sum_gradients([parameter])
    expected = world_size() * (world_size() + 1) / 2
    assert (parameter.grad == expected).all(), f"gradients sum up to {parameter.grad[0]}, not to {expected}"


def check_weights(step: TrainStep) -> None:
    """All ranks must hold the same weights."""
    own = torch.stack([parameter.detach().double().sum() for parameter in step.parameters])
    all_sums = gather_rows("the check of weights", own.cpu().numpy()[None])
    assert (all_sums == all_sums[:1]).all(), "the ranks' weights differ"


def measure(options: argparse.Namespace, device: torch.device) -> Measured:
    """The part of one rank."""

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        barrier("a measurement")

    tune(device)
    check_sums(device)
    step = make_step(options, device)
    batch = synthetic_batch(options.batch, *options.size, device, seed=rank())
    for _ in range(5):
        step(batch, 1e-5)
    rates = []
    for _ in range(WINDOWS):
        synchronise()
        began = time.perf_counter()
        for _ in range(options.steps):
            step(batch, 1e-5)
        synchronise()
        rates.append(options.steps * options.batch * world_size() / (time.perf_counter() - began))
    synchronise()
    began = time.perf_counter()
    for _ in range(10):
        sum_gradients(step.parameters)
    synchronise()
    milliseconds = (time.perf_counter() - began) * 100
    check_weights(step)
    size = sum(parameter.numel() * 4 for parameter in step.parameters) / 2**20
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return Measured(rates, milliseconds, size, peak)


def as_rank(number: int, world: int, port: int, options: argparse.Namespace) -> Measured:
    """What each process runs."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    device = torch.device(options.device, number) if options.device == "cuda" else torch.device("cpu")
    with process_group(device):
        return measure(options, device)


def run(world: int, options: argparse.Namespace) -> Measured:
    """One process for each device, new ones each time."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with multiprocessing.get_context("spawn").Pool(world) as pool:
        jobs = [pool.apply_async(as_rank, (number, world, port, options)) for number in range(world)]
        results: list[Measured] = [job.get() for job in jobs]
    return results[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch", type=int, default=16, help="images of each device")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344))
    parser.add_argument("--steps", type=int, default=20, help="steps of each of the windows")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{name}, PyTorch {torch.__version__}, {options.batch} images a device, {tuple(options.size)}", flush=True)
    print(
        "\n| devices | images/s (least–most) | efficiency | summing gradients | peak memory |\n|---|---|---|---|---|",
        flush=True,
    )
    single = 0.0
    for world in sorted(options.devices):
        found = run(world, options)  # its checks have passed
        rates = sorted(found.images_per_second)
        middle = statistics.median(rates)
        single = single or middle / world
        print(
            f"| {world} | {middle:.1f} ({rates[0]:.1f}–{rates[-1]:.1f}) | {100 * middle / (single * world):.1f} % "
            f"| {found.gradient_mebibytes:.0f} MiB in {found.sum_milliseconds:.2f} ms "
            f"| {found.peak_gibibytes:.1f} GiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
