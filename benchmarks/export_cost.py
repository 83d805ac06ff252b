"""Time and memory of exports: each in a process of its own, one after the other.

    PYTHONPATH=src python benchmarks/export_cost.py [--backbone resnet50] [--size 800 1344] [--formats onnx plan pt2] \
        [--calibration-count 8] [--out FILE]

A format is an ending, with a precision behind a colon where it is not the default. The network has 80 classes and
random weights, so it detects nothing: what is timed is everything that the command does, the comparison on eight
pictures included. int8 and fp8 are calibrated on made-up pictures of the canvas's size.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import printout
import torch
from printout import say

from retinanet import __version__
from retinanet.data.synthetic import make_dataset
from retinanet.model.checkpoint import create_record, save_checkpoint
from retinanet.model.network import RetinaNet
from retinanet.types import ClassMap

MEASURED = (
    "import resource, subprocess, sys, time\n"
    "start = time.monotonic()\n"
    "code = subprocess.run([sys.executable, '-m', 'retinanet.cli', 'export', *sys.argv[1:]], stdout=2).returncode\n"
    "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
    "print(code, time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)\n"
)
"""Runs the command, and says its exit code, its time and its processors' in s, and its largest process in bytes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1344])
    parser.add_argument("--batch", type=int, nargs=3, default=[1, 1, 2])
    parser.add_argument("--formats", nargs="+", default=["onnx", "onnx:int8", "plan", "pt2"])
    parser.add_argument("--calibration-count", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="also write what is printed to this file, as it comes")
    arguments = parser.parse_args()
    printout.keep(arguments.out)
    say(f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    say(f"retinanet {__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}")
    say(f"{arguments.backbone}, 80 classes, {arguments.size[0]} × {arguments.size[1]}, batch {arguments.batch}")
    say()
    say("| format | time | of processors | peak memory | file |")
    say("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(arguments, folder / "model.pth")
        height, width = arguments.size
        make_dataset(folder / "pictures", arguments.calibration_count, height, seed=0, aspects=(width / height,))
        for kind in arguments.formats:
            say(measure(arguments, kind, folder))


def make_model(arguments: argparse.Namespace, path: Path) -> None:
    classes = ClassMap(tuple(range(1, 81)), tuple(f"class {index}" for index in range(1, 81)))
    resize, max_size = arguments.size
    record = create_record(
        classes, [arguments.backbone], width=256, weights="none", anchor_scale=4.0, resize=resize, max_size=max_size
    )
    torch.manual_seed(0)
    save_checkpoint(path, network=RetinaNet(record), training_state=None)


def measure(arguments: argparse.Namespace, kind: str, folder: Path) -> str:
    """A row of the table."""
    ending, _, precision = kind.partition(":")
    out = folder / f"{kind.replace(':', '-')}.{ending}"
    words = [str(folder / "model.pth"), str(out), "--batch", *map(str, arguments.batch), "--device", arguments.device]
    words += ["--precision", precision] if precision else []
    if precision in ("int8", "fp8"):
        words += ["--calibration-images", str(folder / "pictures")]
        words += ["--calibration-count", str(arguments.calibration_count)]
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True)
    code, seconds, processors, memory = map(float, done.stdout.split())
    if code:
        return f"| {kind} | failed: {done.stderr.strip().splitlines()[-1]} | | |"
    return (
        f"| {kind} | {seconds:.0f} s | {processors:.0f} s | {memory / 1e9:.1f} GB | {out.stat().st_size / 1e6:.0f} MB |"
    )


if __name__ == "__main__":
    main()
