"""Tensor → detections: a compiled package beside a checkpoint's runtime, eager PyTorch and torchvision, in one run.

    PYTHONPATH=src python benchmarks/export.py [--batches 1 8] [--size 800 1344] [--packages DIR] [--out FILE]

ResNet-50-FPN, 80 classes, fp16 on a GPU, post-processing included. Pictures are uint8 noise on the device. Weights are
random, and let 6,000 candidates an image pass the score threshold (`contestants.py`). Times are medians, with the
lowest and the highest. What each package finds is compared with eager PyTorch first. A package's load to first result
is measured in a fresh process that imports PyTorch alone and loads as our runtime and C++ programs do; the table says
so where a package kills that process, and what follows leaves it out. Rows are printed as they are measured.

Without a GPU it compiles for the processor, in minutes, to be tried with `--batches 1 --size 64 96`.
"""

from __future__ import annotations

import argparse
import platform
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import printout
import torch
import torchvision
from contestants import (
    DEVICE,
    GPU,
    POSTPROCESS,
    agreement,
    calibrate_on_noise,
    detect_by_peer,
    make_network,
    make_peer,
    noise,
)
from printout import say
from timing import Call, begin_table, row
from torch import Tensor, nn

from retinanet import __version__
from retinanet.config import ExportPrecision
from retinanet.device import tune
from retinanet.errors import RetinaNetError
from retinanet.export.aoti import build
from retinanet.model.fusion import fold_batch_norms
from retinanet.model.network import RetinaNet
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.aoti import AotiRuntime
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.fused import FusedRuntime
from retinanet.predict.runtimes.torch import TorchRuntime

Size = tuple[int, int]
PRECISION: ExportPrecision = "fp16" if GPU else "fp32"
FIRST_RESULT = """
import sys, time
start = time.monotonic()
import torch
imported = time.monotonic()
package = torch._C._aoti.AOTIModelPackageLoader(sys.argv[1], "model", False, 1, -1)
loaded = time.monotonic()
device, (count, height, width) = sys.argv[2], map(int, sys.argv[3:])
images = torch.zeros(count, 3, height, width, dtype=torch.uint8, device=device)
package.boxed_run([images, torch.tensor([[height, width]] * count, device=device)])[0].cpu()
print(f"{imported - start:.2f} {loaded - imported:.2f} {time.monotonic() - imported:.2f}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1344])
    parser.add_argument("--packages", type=Path, help="folder that keeps them; what lies there is not built again")
    parser.add_argument("--out", type=Path, help="also write what is printed to this file, as it comes")
    arguments = parser.parse_args()
    printout.keep(arguments.out)
    canvas, batches = (arguments.size[0], arguments.size[1]), arguments.batches

    tune(DEVICE)
    torch.backends.cudnn.benchmark = True
    where = torch.cuda.get_device_name() if GPU else "no GPU"
    say(f"{where}, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    say(f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}")
    network, peer = make_network(min(canvas), max(canvas)), make_peer()
    say(f"Candidates above the threshold: {calibrate_on_noise(network, peer, canvas)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.packages or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        packages = make_packages(network, canvas, batches, folder)
        speed(network, peer, packages, batches, canvas)


def make_packages(network: RetinaNet, canvas: Size, batches: list[int], folder: Path) -> dict[str, Path]:
    """Build them, and say how long that took; returns those that can be loaded, by name."""
    say()
    say("| package | built in, s | MB | import torch, s | load, s | load to first result, s |")
    say("|---|---|---|---|---|---|")
    kinds = {f".pt2 for {count}": (count,) * 3 for count in batches}
    if max(batches) > 1:
        kinds[f".pt2 for 1…{max(batches)}"] = (1, 1, max(batches))
    packages = {}
    for name, batch in kinds.items():
        path, start = folder / f"{batch[0]}-{batch[2]}.pt2", time.monotonic()
        built = "before"
        if not path.exists():
            try:
                make_package(network, canvas, batch, path)
            except RetinaNetError as error:
                say(f"| {name} | failed: {error} | | | | |")
                continue
            built = f"{time.monotonic() - start:.0f}"
        first, works = first_result(path, batch[1], canvas)
        say(f"| {name} | {built} | {path.stat().st_size / 1e6:.0f} | {first} |")
        if works:
            packages[name] = path
    return packages


def make_package(network: RetinaNet, canvas: Size, batch: tuple[int, int, int], path: Path) -> None:
    record = ArtifactRecord(
        format="aoti",
        classes=network.record.classes,
        canvas=canvas,
        batch=batch,
        resize=network.record.resize,
        max_size=network.record.max_size,
        postprocess=POSTPROCESS,
        precision=PRECISION,
        source="random weights",
        versions={"retinanet": __version__, "torch": torch.__version__},
    )
    build(Detector(fold_batch_norms(copy_of(network)), POSTPROCESS).eval(), record, path, DEVICE)


def copy_of(network: RetinaNet) -> RetinaNet:
    """On the CPU, to be used up."""
    copy = RetinaNet(network.record)
    copy.load_state_dict(network.state_dict())
    return copy


def first_result(path: Path, count: int, canvas: Size) -> tuple[str, bool]:
    """Three cells of the table, and whether there is a result: loading may kill the process, which is not this one."""
    words = [sys.executable, "-c", FIRST_RESULT, str(path), DEVICE.type, *map(str, (count, *canvas))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return f"| | killed by {signal.Signals(-done.returncode).name}", False
    if done.returncode:
        return f"| | failed: {done.stderr.strip().splitlines()[-1]}", False
    return " | ".join(done.stdout.split()), True


def speed(network: RetinaNet, peer: nn.Module, packages: dict[str, Path], batches: list[int], canvas: Size) -> None:
    eager = TorchRuntime(copy_of(network), postprocess=POSTPROCESS, device=DEVICE, precision=PRECISION)
    runtimes = {name: AotiRuntime.from_file(path, None) for name, path in packages.items()}
    say()
    for name, runtime in runtimes.items():
        say(f"{name} beside eager: {agreement(runtime, eager, pictures(runtime.record.batch[0], canvas))}.")
    begin_table(f"Tensor → detections, {canvas[0]}×{canvas[1]}, {PRECISION}", batches)
    for name, runtime in runtimes.items():
        say(row(name, batches, partial(run, runtime, canvas)))
        if GPU:
            package = torch._C._aoti.AOTIModelPackageLoader(str(packages[name]), "model", False, 1, 0)
            say(row(f"{name}, launched kernel by kernel", batches, partial(launch, package, runtime, canvas)))
    fused = FusedRuntime(copy_of(network), postprocess=POSTPROCESS, device=DEVICE, precision=PRECISION)
    say(row("a checkpoint's runtime", batches, lambda count: partial(fused, *noise(count, canvas))))
    say(row("eager", batches, lambda count: partial(eager, *pictures(count, canvas))))
    say(row("torchvision, autocast", batches, lambda count: partial(detect_by_peer, peer, pictures(count, canvas)[0])))


def pictures(count: int, canvas: Size) -> tuple[Tensor, Tensor]:
    """Contiguous, as packages have been compiled for."""
    images, image_sizes = noise(count, canvas)
    return images.contiguous(), image_sizes


def run(runtime: AotiRuntime, canvas: Size, count: int) -> Call | None:
    fewest, _, most = runtime.record.batch
    return partial(runtime, *pictures(count, canvas)) if fewest <= count <= most else None


def launch(
    package: torch._C._aoti.AOTIModelPackageLoader, runtime: AotiRuntime, canvas: Size, count: int
) -> Call | None:
    """As C++ programs do it."""
    if run(runtime, canvas, count) is None:
        return None
    inputs = pictures(count, canvas)
    return lambda: package.boxed_run(list(inputs))


if __name__ == "__main__":
    main()
