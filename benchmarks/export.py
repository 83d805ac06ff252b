"""Tensor → detections: a compiled package beside eager PyTorch and torchvision, in one run on a GPU.

    PYTHONPATH=src python benchmarks/export.py [--batches 1 8] [--size 800 1344] [--out FILE]

ResNet-50-FPN, 80 classes, fp16, post-processing included. Pictures are uint8 noise on the GPU. Weights are random, with
the last class layer scaled and shifted so that 6,000 candidates an image pass the score threshold. Times are
medians, with the 10th and 90th percentile. A package's load to first result is measured in a fresh process that imports
PyTorch alone.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import printout
import torch
import torchvision
from printout import say
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn

from retinanet import __version__
from retinanet.config import PostprocessConfig
from retinanet.device import tune
from retinanet.export.aoti import build
from retinanet.model.checkpoint import create_record
from retinanet.model.network import RetinaNet
from retinanet.ops.decode import logit_threshold
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.aoti import AotiRuntime
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.types import ClassMap

CLASSES = 80
CANDIDATES = 6000
POSTPROCESS = PostprocessConfig()
DEVICE = torch.device("cuda", 0)
FIRST_RESULT = """
import sys, time
start = time.monotonic()
import torch
imported = time.monotonic()
package = torch._inductor.aoti_load_package(sys.argv[1])
count, height, width = map(int, sys.argv[2:])
images = torch.zeros(count, 3, height, width, dtype=torch.uint8, device="cuda")
package(images, torch.tensor([[height, width]] * count, device="cuda"))[0].cpu()
print(f"{imported - start:.2f} {time.monotonic() - imported:.2f}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1344])
    parser.add_argument("--out", type=Path, help="also write what is printed to this file")
    arguments = parser.parse_args()
    canvas = (arguments.size[0], arguments.size[1])

    tune(DEVICE)
    torch.backends.cudnn.benchmark = True
    say(f"{torch.cuda.get_device_name()}, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    say(f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}")
    say()
    network = make_network(canvas)
    with tempfile.TemporaryDirectory() as folder:
        most = max(arguments.batches)
        batches = {
            **{f".pt2 for {count}": (count,) * 3 for count in arguments.batches},
            f".pt2 for 1…{most}": (1, 1, most),
        }
        packages = make_packages(network, canvas, batches, Path(folder))
        speed(network, packages, arguments.batches, canvas)
    if arguments.out:
        printout.write(arguments.out)


def make_network(canvas: tuple[int, int]) -> RetinaNet:
    classes = ClassMap(tuple(range(CLASSES)), tuple(f"class {index}" for index in range(CLASSES)))
    record = create_record(
        classes, ["ResNet50FPN"], width=256, weights="none", anchor_scale=4.0, resize=canvas[0], max_size=canvas[1]
    )
    torch.manual_seed(0)
    network = RetinaNet(record).eval().to(DEVICE)
    images, image_sizes = pictures(1, canvas)
    with torch.inference_mode():
        calibrate(network.class_head.predict, network(images, image_sizes).logits)
    return network


def calibrate(predict: nn.Conv2d, logits: Iterable[Tensor]) -> None:
    """Give the logits of `predict` a deviation of 1 and let `CANDIDATES` of them pass the threshold."""
    values = torch.cat([level.flatten() for level in logits]).float()
    least = values.topk(CANDIDATES).values[-1] / values.std()
    assert predict.bias is not None
    with torch.no_grad():
        predict.weight /= values.std()
        predict.bias /= values.std()
        predict.bias += logit_threshold(POSTPROCESS.threshold) - least


def pictures(count: int, canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(0)
    images = torch.randint(0, 256, (count, 3, *canvas), dtype=torch.uint8, device=DEVICE, generator=generator)
    return images, torch.tensor([canvas] * count, device=DEVICE)


def make_packages(
    network: RetinaNet, canvas: tuple[int, int], batches: dict[str, tuple[int, int, int]], folder: Path
) -> dict[str, Path]:
    say("| package | built in, s | MB | import torch, s | load to first result, s |")
    say("|---|---|---|---|---|")
    packages = {}
    for index, (name, batch) in enumerate(batches.items()):
        record = ArtifactRecord(
            format="aoti",
            classes=network.record.classes,
            canvas=canvas,
            batch=batch,
            resize=network.record.resize,
            max_size=network.record.max_size,
            postprocess=POSTPROCESS,
            precision="fp16",
            source="random weights",
            versions={"retinanet": __version__, "torch": torch.__version__},
        )
        copy = RetinaNet(network.record)
        copy.load_state_dict(network.state_dict())
        path = folder / f"{index}.pt2"
        start = time.monotonic()
        build(Detector(copy, POSTPROCESS).eval(), record, path, DEVICE)
        seconds = time.monotonic() - start
        words = [sys.executable, "-c", FIRST_RESULT, path, *map(str, (batch[1], *canvas))]
        imported, first = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
        say(f"| {name} | {seconds:.0f} | {path.stat().st_size / 1e6:.0f} | {imported} | {first} |")
        packages[name] = path
    say()
    return packages


def speed(network: RetinaNet, packages: dict[str, Path], batches: list[int], canvas: tuple[int, int]) -> None:
    eager = TorchRuntime(network, postprocess=POSTPROCESS, device=DEVICE, precision="fp16")
    say(f"Tensor → detections, {canvas[0]}×{canvas[1]}, fp16, ms")
    say()
    say("| | " + " | ".join(f"batch {count}" for count in batches) + " |")
    say("|---|" + "---|" * len(batches))
    for name, path in packages.items():
        fewest, _, most = AotiRuntime.read_record(path).batch
        # A CUDA graph cannot hold the locks with which a package lets several threads in.
        single = torch._inductor.aoti_load_package(str(path), run_single_threaded=True, device_index=0)
        for kind, prepare in (
            ("", partial(partial, AotiRuntime.from_file(path, None))),
            (", CUDA graph", captured(single)),
        ):
            cells = [
                show(measure(prepare(*pictures(count, canvas)))) if fewest <= count <= most else "" for count in batches
            ]
            say(f"| {name}{kind} | " + " | ".join(cells) + " |")
    cells = [show(measure(partial(eager, *pictures(count, canvas)))) for count in batches]
    say("| eager | " + " | ".join(cells) + " |")
    cells = [show(measure(torchvision_peer(count, canvas))) for count in batches]
    say("| torchvision, autocast | " + " | ".join(cells) + " |")


def torchvision_peer(count: int, canvas: tuple[int, int]) -> Callable[[], object]:
    """Its detector, whose images are floats of 0…1 and lie on the GPU already."""
    torch.manual_seed(0)
    peer = retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES,
        detections_per_img=100,
        min_size=min(canvas),
        max_size=max(canvas),
    )
    peer = peer.eval().to(DEVICE).to(memory_format=torch.channels_last)
    images = [image / 255 for image in pictures(count, canvas)[0]]
    with torch.inference_mode():
        batch = peer.transform(images)[0].tensors[:1]
        maps = peer.head(list(peer.backbone(batch).values()))["cls_logits"]
        calibrate(peer.head.classification_head.cls_logits, [maps])

    @torch.inference_mode()
    def run() -> object:
        with torch.autocast("cuda", torch.float16):
            return peer(images)

    return run


def captured(function: Callable[..., object]) -> Callable[..., Callable[[], None]]:
    """What gives a call of `function` as a CUDA graph's replay."""

    def capture(*inputs: Tensor) -> Callable[[], None]:
        for _ in range(3):
            function(*inputs)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function(*inputs)
        return graph.replay

    return capture


def measure(call: Callable[[], object], seconds: float = 1.0) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile in ms of at least 10 calls."""
    for _ in range(5):
        call()
    torch.cuda.synchronize()
    times, end = [], time.monotonic() + seconds
    while len(times) < 10 or (time.monotonic() < end and len(times) < 300):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    deciles = statistics.quantiles(times, n=10)
    return statistics.median(times), deciles[0], deciles[-1]


def show(times: tuple[float, float, float]) -> str:
    return f"{times[0]:.2f} ({times[1]:.2f}–{times[2]:.2f})"


if __name__ == "__main__":
    main()
