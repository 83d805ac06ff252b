"""Detecting: ours beside torchvision's RetinaNet, in one run.

    PYTHONPATH=src python benchmarks/infer.py --images DIR [--models engine.plan …] [--out FILE]

ResNet-50-FPN, 80 classes, half precision on a GPU. Weights are random, with the last class layer scaled and shifted so
that 6,000 candidates an image pass the score threshold. Measured are

- tensor → detections (the GPU's own time, uint8 pictures that lie there already): `load`'s runtime for a checkpoint,
  eager PyTorch, each of --models, and torchvision under autocast; with the time of the network and of post-processing,
  and the floor beside them (the convolutions' FLOPs at --peak, what one 3×3 convolution reached on an H100);
- folder of JPEGs → results file: `retinanet infer` with all that belongs to it (headers, journal, checksums), the model
  loaded before or meanwhile, and torchvision's, loaded before, with a DataLoader of its own, which decodes in as many
  processes, keeps uint8 until the GPU and writes the same COCO results; and for how much of the time from the first
  kernel to the last the GPU ran none (torch.profiler).

Times are medians, with the lowest and the highest. Without a GPU it runs on the CPU, to be tried with
`--batches 1 2 --size 64 96 --limit 8 --repeats 1`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import printout
import torch
import torchvision
from printout import say
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection import retinanet_resnet50_fpn

from export import CLASSES, calibrate
from retinanet.config import InferConfig, PostprocessConfig, PredictConfig
from retinanet.data.folder import walk_images
from retinanet.device import choose_workers, tune
from retinanet.model.checkpoint import create_record, save_checkpoint
from retinanet.model.network import RetinaNet
from retinanet.predict.infer import run_inference
from retinanet.predict.predictor import load
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.types import ClassMap, HeadOutputs

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if GPU else torch.device("cpu")
POSTPROCESS = PostprocessConfig()


class Spread(NamedTuple):
    """Of several measurements."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f}–{self.highest:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEGs, searched in depth")
    parser.add_argument("--limit", type=int, help="take only so many of them")
    parser.add_argument("--peer-limit", type=int, help="give torchvision only so many: it is slow")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="exported models to measure too")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1344], help="of the tensors")
    parser.add_argument(
        "--resize", type=int, nargs=2, default=[800, 1333], help="shorter and longer side, of the JPEGs"
    )
    parser.add_argument("--batch", type=int, default=8, help="images in a batch, of the JPEGs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", type=float, default=737, help="TFLOP/s of the floor")
    parser.add_argument("--out", type=Path, help="also write what is printed to this file")
    arguments = parser.parse_args()
    tune(DEVICE)
    where = torch.cuda.get_device_name() if GPU else f"{platform.processor() or platform.machine()}, no GPU"
    say(f"{where}, {choose_workers(None)} worker processes, {time.strftime('%Y-%m-%d')}")
    say(f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        network, peer = make_network(arguments), make_peer(arguments)
        model = Path(folder) / "random.pth"
        save_checkpoint(model, network=network, training_state=None)
        tables = [tensors(network, peer, model, arguments), *files(peer, model, Path(folder), arguments)]
    for table in tables:  # last, and together
        say()
        for row in table:
            say(row)
    if arguments.out:
        printout.write(arguments.out)


def make_network(arguments: argparse.Namespace) -> RetinaNet:
    classes = ClassMap(tuple(range(CLASSES)), tuple(f"class {index}" for index in range(CLASSES)))
    resize, longest = arguments.resize
    record = create_record(
        classes, ["ResNet50FPN"], width=256, weights="none", anchor_scale=4.0, resize=resize, max_size=longest
    )
    torch.manual_seed(0)
    network = RetinaNet(record).eval().to(DEVICE)
    with torch.inference_mode():
        calibrate(network.class_head.predict, network(*pictures(1, arguments.size)).logits)
    return network


def make_peer(arguments: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    resize, longest = arguments.resize
    peer = retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES,
        detections_per_img=100,
        min_size=resize,
        max_size=longest,
    )
    peer = peer.eval().to(DEVICE).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        batch = peer.transform([pictures(1, arguments.size)[0][0] / 255])[0].tensors
        maps = peer.head(list(peer.backbone(batch).values()))["cls_logits"]
        calibrate(peer.head.classification_head.cls_logits, [maps])
    return peer


def pictures(count: int, canvas: Sequence[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(0)
    images = torch.randint(0, 256, (count, 3, *canvas), dtype=torch.uint8, device=DEVICE, generator=generator)
    return images.to(memory_format=torch.channels_last), torch.tensor([list(canvas)] * count, device=DEVICE)


def detect_by_peer(peer: nn.Module, images: Iterable[Tensor]) -> list[dict[str, Tensor]]:
    with torch.inference_mode(), torch.autocast(DEVICE.type, torch.float16, enabled=GPU):
        found: list[dict[str, Tensor]] = peer([image / 255 for image in images])
    return found


# Tensor → detections


def tensors(network: RetinaNet, peer: nn.Module, model: Path, arguments: argparse.Namespace) -> list[str]:
    canvas, batches = arguments.size, arguments.batches
    config = PredictConfig(device=str(DEVICE))
    runtimes = {"ours": load(model, config=config).runtime}
    eager = RetinaNet(network.record)
    eager.load_state_dict(network.state_dict())
    runtimes["ours, eager"] = TorchRuntime(eager, postprocess=POSTPROCESS, device=DEVICE)
    for path in arguments.models:
        runtimes[path.name] = load(path, config=config).runtime
    kinds = [type(runtime).__name__ for runtime in runtimes.values()]
    for runtime in runtimes.values():
        found = runtime(*pictures(max(1, (runtime.batch or (1, 1))[0]), runtime.canvas or canvas))
        assert (found.count > 0).all(), "a runtime finds nothing, so it proves nothing"
    rows = [
        f"Tensor → detections, {canvas[0]}×{canvas[1]}, ms (lowest–highest)",
        "| | " + " | ".join(f"batch {count}" for count in batches) + " | best, images/s |",
        "|---|" + "---|" * (len(batches) + 1),
    ]
    for (name, runtime), kind in zip(runtimes.items(), kinds, strict=True):
        spreads = {}
        for count in batches:
            fewest, most = runtime.batch or (1, count)
            if fewest <= count <= most:
                images = pictures(count, runtime.canvas or canvas)
                spreads[count] = measure(lambda runtime=runtime, images=images: runtime(*images))
        rows.append(row_of(f"{name} ({kind})", spreads, batches))
    detector = runtimes["ours"].detector
    for name, part in (("… its network", detector.network), ("… its decode + NMS", Postprocessing(detector))):
        spreads = {}
        for count in batches:
            images = pictures(count, canvas)
            if isinstance(part, Postprocessing):
                part.remember(*images)
            spreads[count] = measure(recorded(part, *images))
        rows.append(row_of(name, spreads, batches))
    if GPU:
        flops = count_flops(network, canvas)
        floor = {count: Spread(*[1e3 * count * flops / (arguments.peak * 1e12)] * 3) for count in batches}
        rows.append(row_of(f"floor: {flops / 1e9:.0f} GFLOP an image at {arguments.peak:.0f} TFLOP/s", floor, batches))
    spreads = {}
    for count in batches:
        images = pictures(count, canvas)[0]
        spreads[count] = measure(lambda images=images: detect_by_peer(peer, images))
    return [*rows, row_of("torchvision, autocast", spreads, batches)]


class Postprocessing(nn.Module):
    """A detector whose network says what it said before."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def remember(self, images: Tensor, image_sizes: Tensor) -> None:
        """Have the network say it."""
        with torch.inference_mode():
            self.outputs: HeadOutputs = self.detector.network(images, image_sizes)

    def forward(self, images: Tensor, image_sizes: Tensor) -> object:
        """Detections."""
        network = self.detector.network
        forward, network.forward = network.forward, lambda *_: self.outputs
        try:
            return self.detector(images, image_sizes)
        finally:
            network.forward = forward


def recorded(part: nn.Module, images: Tensor, image_sizes: Tensor) -> Callable[[], object]:
    """A call of `part`, on a GPU as the replay of a CUDA graph: the time of its kernels, not of their launches."""

    @torch.inference_mode()
    def call() -> object:
        return part(images, image_sizes)

    if not GPU:
        return call
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(call: Callable[[], object], seconds: float = 1.0) -> Spread:
    """In ms, of at least 5 calls after 3 others (which capture graphs)."""
    for _ in range(3):
        call()
    times, end = [], time.monotonic() + (seconds if GPU else 0)
    while len(times) < 5 or (time.monotonic() < end and len(times) < 300):
        if GPU:
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop))
        else:
            began = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - began))
    return Spread(statistics.median(times), min(times), max(times))


def count_flops(network: RetinaNet, canvas: Sequence[int]) -> int:
    """Of one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(*pictures(1, canvas))
    return counter.get_total_flops()


def row_of(name: str, spreads: dict[int, Spread], batches: Sequence[int]) -> str:
    cells = [str(spreads.get(count, "")) for count in batches]
    best = max((1e3 * count / spread.median for count, spread in spreads.items()), default=0)
    return f"| {name} | " + " | ".join(cells) + f" | {best:.0f} |"


# Folder of JPEGs → results file


def files(peer: nn.Module, model: Path, folder: Path, arguments: argparse.Namespace) -> list[list[str]]:
    names = walk_images(arguments.images)[: arguments.limit]
    paths = [str(arguments.images.resolve() / name) for name in names]
    listed = folder / "images.txt"
    listed.write_text("\n".join(paths))
    config = InferConfig(device=str(DEVICE), batch=arguments.batch)

    def ours() -> None:
        run_inference(model, images=listed, annotations=None, output=folder / "ours.json", draw=None, config=config)

    def loaded() -> None:
        with patch("retinanet.predict.infer.load", lambda *_, **__: predictor):
            ours()

    predictor = load(model, config=config)

    peers = paths[: arguments.peer_limit]

    def torchvisions() -> None:
        run_peer(peer, peers, folder / "torchvision.json", arguments.batch)

    rows = [
        f"Folder of JPEGs → results file, {arguments.resize[0]}/{arguments.resize[1]} px, batch {arguments.batch}",
        "| | images | seconds (lowest–highest) | images/s | without a kernel |",
        "|---|---|---|---|---|",
    ]
    runs = (
        ("ours", loaded, "ours.json", len(paths)),
        ("ours, and loading the checkpoint", ours, "ours.json", len(paths)),
        ("torchvision", torchvisions, "torchvision.json", len(peers)),
    )
    for name, run, output, count in runs:
        run()  # what happens once in a process, and the files' way into memory
        found = {entry["image_id"] for entry in json.loads((folder / output).read_text())}
        assert found == set(range(1, count + 1)), "an image has no detection, so its results may be missing"
        times = []
        for _ in range(arguments.repeats):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        spread = Spread(statistics.median(times), min(times), max(times))
        rows.append(f"| {name} | {count} | {spread} | {count / spread.median:.1f} | {idle_share(run)} |")
    return [rows]


class Photographs(Dataset):
    """Ids and pictures, uint8."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index + 1, decode_image(self.paths[index], ImageReadMode.RGB)


def run_peer(peer: nn.Module, paths: list[str], output: Path, batch: int) -> None:
    loader = DataLoader(
        Photographs(paths), batch_size=batch, num_workers=choose_workers(None), collate_fn=list, pin_memory=GPU
    )
    entries = []
    for samples in loader:
        images = [image.to(DEVICE, non_blocking=True) for _, image in samples]
        for (image_id, _), found in zip(samples, detect_by_peer(peer, images), strict=True):
            columns = [found[name].cpu() for name in ("boxes", "labels", "scores")]
            for (x1, y1, x2, y2), label, score in zip(*(column.tolist() for column in columns), strict=True):
                box = [round(x1, 3), round(y1, 3), round(x2 - x1, 3), round(y2 - y1, 3)]
                entries.append({"image_id": image_id, "category_id": label, "bbox": box, "score": round(score, 6)})
    output.write_text(json.dumps(entries))


def idle_share(run: Callable[[], None]) -> str:
    """How much of the time from the first kernel to the last no kernel ran."""
    if not GPU:
        return "no GPU"
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        run()
        torch.cuda.synchronize()
    kernels = sorted(
        (event.time_range.start, event.time_range.end)
        for event in trace.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith(("Memcpy", "Memset"))
    )
    busy, until = 0.0, kernels[0][0]
    for start, end in kernels:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return f"{100 * (1 - busy / (until - kernels[0][0])):.1f} %"


if __name__ == "__main__":
    main()
