"""Which loader a run takes."""

from __future__ import annotations

import torch

from retinanet.config import LoaderKind
from retinanet.data import dali_pool
from retinanet.data.annotations import CocoData
from retinanet.data.augment import Augment
from retinanet.data.dali_loader import DaliLoader
from retinanet.data.dali_pipeline import require_dali
from retinanet.data.loader import Loader
from retinanet.data.preparation import Plan, Preparation
from retinanet.data.torch_loader import TorchLoader
from retinanet.errors import UsageError


def make_loader(
    kind: LoaderKind,
    device: torch.device,
    data: CocoData,
    plan: Plan,
    resize: int,
    max_size: int,
    augment: Augment | None = None,
    *,
    workers: int,
    seed: int = 0,
    start_step: int = 0,
    total_steps: int | None = None,
    rank: int = 0,
    world: int = 1,
    shared: bool = False,
) -> Loader:
    """The loader asked for, with batches on `device`; the arguments are those of `TorchLoader`.

    Raises `UsageError` where DALI is asked for and missing.
    """
    if choose_loader(kind, device) == "dali":
        steps = range(start_step, plan.steps_per_epoch if total_steps is None else total_steps)
        preparation = Preparation(data, plan, resize, max_size, augment, seed, rank, world)
        return DaliLoader(preparation, steps, workers, device, shared)
    return TorchLoader(
        data, plan, resize, max_size, augment, workers, seed, start_step, total_steps, rank, world, shared, device
    )


def prepare_loader(kind: LoaderKind, device: torch.device, batch: int, *, workers: int) -> None:
    """Begin what takes long before the first batch, in a thread, where `make_loader` is called somewhat later."""
    if choose_loader(kind, device) == "dali":
        dali_pool.prepare(batch, max(1, workers), device)


def choose_loader(kind: LoaderKind, device: torch.device) -> LoaderKind:
    """'dali' or 'torch': as asked for; 'auto' is DALI on a GPU where it is installed.

    Raises `UsageError` where DALI is asked for and missing.
    """
    if kind == "torch" or (kind == "auto" and device.type != "cuda"):
        return "torch"
    try:
        require_dali()
    except UsageError:
        if kind == "dali":
            raise
        return "torch"
    return "dali"
