"""Detecting: ours beside torchvision's RetinaNet, in one run.

    PYTHONPATH=src python benchmarks/infer.py --images DIR [--models engine.plan …] [--out FILE]
    PYTHONPATH=src python benchmarks/infer.py --tensors-only [--size 800 1344 --size 800 800] [--out FILE]

ResNet-50-FPN (or --backbone), 80 classes, half precision on a GPU, random weights that let 6,000 candidates an image
pass the score threshold (`contestants.py`). Of the four questions about detecting, (a), how fast the loaders are alone,
is answered by `loaders.py`. The others are answered here, one after the other; each row is printed, and kept, once it
is measured:

(b) tensor → detections (the GPU's own time, uint8 pictures that lie there already): `load`'s runtime for a checkpoint,
    eager PyTorch, each of --models, and torchvision under autocast; with the time of the network and of
    post-processing, and the floor (the convolutions' FLOPs at --peak, what one 3×3 convolution reached on an H100),
    which is said as a part of each time too. The weights are calibrated on noise, which is what the pictures hold.
(c) folder of JPEGs → results file: `retinanet infer` with all that belongs to it (headers, journal, checksums), the
    model loaded before, or meanwhile, or in a process of its own, start and all; and torchvision's, loaded before, with
    a DataLoader of its own, which decodes in as many processes, keeps uint8 until the GPU and writes the same COCO
    results. The weights are calibrated on eight pictures of the folder. A first, untimed run of ours proves by JSON
    lines that each picture has its results. What happens once in a process (DALI's start, say) has happened before,
    but in that process of its own. Most of the time goes into torchvision's runs, which --peer-limit shortens.
(d) for how much of the time from the first kernel to the last of (c) the GPU ran none, and which kernels of ours took
    the rest (torch.profiler).

Times are medians, with the lowest and the highest. Without a GPU it runs on the CPU, to be tried with
`--batches 1 2 --size 64 96 --resize 96 160 --limit 8 --repeats 1`.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import printout
import torch
import torchvision
from contestants import DEVICE, GPU, RESNET, make_network, make_peer
from infer_folder import measure_folder
from infer_tensors import measure_tensors
from printout import say

from retinanet import __version__
from retinanet.device import choose_workers, tune


def main() -> None:
    arguments = parse()
    printout.keep(arguments.out)
    tune(DEVICE)
    where = torch.cuda.get_device_name() if GPU else f"{platform.processor() or platform.machine()}, no GPU"
    say(f"{where}, {choose_workers(None)} worker processes, {time.strftime('%Y-%m-%d')}")
    say(
        f"retinanet {__version__}, PyTorch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"Python {platform.python_version()}"
    )
    network, peer = make_network(*arguments.resize, arguments.backbone), make_peer(arguments.backbone)
    measure_tensors(network, peer, arguments)
    if not arguments.tensors_only:
        measure_folder(network, peer, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEGs, searched in depth")
    parser.add_argument("--tensors-only", action="store_true", help="measure (b) alone, which needs no --images")
    parser.add_argument("--limit", type=int, help="take only so many of the images")
    parser.add_argument("--peer-limit", type=int, help="give torchvision only so many: it is slow")
    parser.add_argument("--backbone", default=RESNET, help="of both detectors, by timm's name")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="exported models to measure in (b) too")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="of (b)")
    parser.add_argument(
        "--size", type=int, nargs=2, action="append", help="of the tensors, more than once for more tables of (b)"
    )
    parser.add_argument(
        "--resize", type=int, nargs=2, default=[800, 1333], help="shorter and longer side, of the JPEGs"
    )
    parser.add_argument("--batch", type=int, default=8, help="images in a batch, of the JPEGs")
    parser.add_argument("--repeats", type=int, default=5, help="of (c)")
    parser.add_argument("--peak", type=float, default=737, help="TFLOP/s of the floor")
    parser.add_argument("--out", type=Path, help="also write what is printed to this file, as it comes")
    arguments = parser.parse_args()
    arguments.size = arguments.size or [[800, 1344], [800, 800]]
    if arguments.images is None and not arguments.tensors_only:
        parser.error("give --images, or --tensors-only")
    return arguments


if __name__ == "__main__":
    main()
