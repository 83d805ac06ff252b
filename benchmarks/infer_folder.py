"""Tables (c) and (d) of infer.py: from a folder of pictures to a file of results, and the GPU's part in it."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from contestants import DEVICE, GPU, calibrate_network, calibrate_peer, resize_in_peer
from idle import Trace, trace
from infer_folder_ours import check_complete, infer, infer_by_command, listed
from infer_folder_peer import infer_by_peer
from printout import say
from timing import spread
from torch import nn

from retinanet.config import InferConfig
from retinanet.data.folder import images_only, walk_images
from retinanet.data.images import read_image
from retinanet.data.loading import choose_loader
from retinanet.errors import DataError
from retinanet.model.checkpoint import save_checkpoint
from retinanet.model.network import RetinaNet
from retinanet.predict.predictor import load
from retinanet.preprocess import fit_to_canvas, group_by_canvas

CALIBRATED_ON = 8
"""Pictures, spread over the folder."""
TRACED = 96
"""Pictures of torchvision's in (d): it launches so much that the trace of a large folder would not fit the memory."""

LONGEST = 25
"""Kernels that are listed."""


class Contestant(NamedTuple):
    """Who goes through pictures."""

    name: str
    run: Callable[[Sequence[str]], object]
    """Takes their paths."""
    paths: Sequence[str]
    """To be timed."""
    traced: Sequence[str] = ()
    """In (d); none: left out of it."""


def measure_folder(network: RetinaNet, peer: nn.Module, arguments: argparse.Namespace) -> None:
    names = walk_images(arguments.images)[: arguments.limit]
    paths = [str(arguments.images.resolve() / name) for name in names]
    config = InferConfig(device=str(DEVICE), batch=arguments.batch)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        candidates = calibrate(network, peer, paths, folder, *arguments.resize)
        model = folder / "random.pth"
        save_checkpoint(model, network=network, training_state=None)
        predictor = load(model, config=config)
        say()
        say(f"## (c) Folder of {len(paths):,} pictures → results file")
        say()
        loader = {"dali": "DALI", "torch": "PyTorch"}[choose_loader("auto", DEVICE)]
        say(f"{arguments.resize[0]}/{arguments.resize[1]} px, batch {arguments.batch}; our loader is {loader}'s.")
        say(candidates)
        infer(model, predictor, config, folder / "ours.jsonl", paths)
        sentence, unreadable = check_complete(folder / "ours.jsonl", len(paths))
        say(sentence)
        # torchvision's loop would end at one that cannot be read.
        peers = [path for number, path in enumerate(paths, start=1) if number not in unreadable]
        peers = peers[: arguments.peer_limit]
        ours = partial(infer, model, predictor, config, folder / "ours.json")
        ours_and_loading = partial(infer, model, None, config, folder / "ours.json")
        command = partial(infer_by_command, model, config, folder / "ours.json")
        by_peer = partial(infer_by_peer, peer, output=folder / "torchvision.json", batch=arguments.batch)
        by_peer(peers[: 4 * arguments.batch])  # what happens once in a process; the files are in memory already
        contestants = (
            Contestant("ours", ours, paths, paths),
            Contestant("ours, and loading the checkpoint", ours_and_loading, paths),
            Contestant("ours, the whole command in a new process", command, paths),
            Contestant("torchvision", by_peer, peers, peers[:TRACED]),
        )
        speed(contestants, arguments.repeats)
        idleness(contestants)


def calibrate(
    network: RetinaNet, peer: nn.Module, paths: Sequence[str], folder: Path, resize: int, max_size: int
) -> str:
    """Both models, on pictures resized and placed as each of them does it; says how many candidates that gives."""
    data = images_only(listed(paths, folder))
    canvas_of_image, canvases = group_by_canvas(data.sizes, resize, max_size)
    chosen = np.unique(np.linspace(0, len(data) - 1, CALIBRATED_ON).round().astype(int)).tolist()
    pictures = {}
    for index in chosen:
        with contextlib.suppress(DataError):  # it cannot be read, which the folder's run will tell
            pictures[index] = read_image(data.image_path(index))
    ours = calibrate_network(
        network,
        [
            fit_to_canvas(picture, resize, max_size, canvases[canvas_of_image[index]])
            for index, picture in pictures.items()
        ],
    )
    resize_in_peer(peer, resize, max_size)
    theirs = calibrate_peer(peer, list(pictures.values()))
    return f"Candidates above the threshold in {len(pictures)} of the pictures: ours {ours}, torchvision {theirs}."


def speed(contestants: Sequence[Contestant], repeats: int) -> None:
    say()
    say("| | pictures | seconds (lowest–highest) | pictures/s |")
    say("|---|---|---|---|")
    for name, run, paths, _ in contestants:
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            run(paths)
            times.append(time.perf_counter() - began)
        found = spread(times)
        say(f"| {name} | {len(paths):,} | {found} | {len(paths) / found.median:.1f} |")


def idleness(contestants: Sequence[Contestant]) -> None:
    say()
    say("## (d) The GPU's part, in a trace of the same")
    say()
    if not GPU:
        say("There is no GPU.")
        return
    say("| | pictures | seconds | from the first kernel to the last | of this, without a kernel |")
    say("|---|---|---|---|---|")
    traces = []
    for name, run, _, paths in (one for one in contestants if one.traced):
        traces.append(trace(partial(run, paths)))
        seconds, kernels, idle, _ = traces[-1]
        say(f"| {name} | {len(paths):,} | {seconds:.2f} | {kernels:.2f} | {100 * idle:.1f} % |")
    say()
    say(f"Where the time of {contestants[0].name} goes, µs a picture; what runs side by side adds up:")
    say()
    print_work(traces[0], len(contestants[0].traced))


def print_work(traced: Trace, pictures: int) -> None:
    say("| | launches | µs |")
    say("|---|---|---|")
    for name, (launches, seconds) in list(traced.work.items())[:LONGEST]:
        say(f"| {name[:100]} | {launches:,} | {1e6 * seconds / pictures:.1f} |")
    rest = list(traced.work.values())[LONGEST:]
    say(f"| others | {sum(count for count, _ in rest):,} | {1e6 * sum(took for _, took in rest) / pictures:.1f} |")
