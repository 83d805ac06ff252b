"""Which process of a run this is, which device is its own, and the group that it joins.

`retinanet train` starts one process for each device by itself (`launch.py`); torchrun and other launchers do the same
on several machines. Both say in the environment who is who: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from retinanet.config import TrainConfig
from retinanet.device import choose_device
from retinanet.errors import Interrupted, RetinaNetError, UsageError
from retinanet.train import reports
from retinanet.train.watchdog import Watchdog

PATIENCE = 600.0
"""Seconds after which a rank that does not come is named and the run ends."""
_MARGIN = 60.0
"""PyTorch's own time-outs come later, so that ours can say who is missing."""


def started_by_launcher() -> bool:
    """Whether this process is one rank of a run, be it ours or torchrun's."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def started_by_another_launcher() -> bool:
    """Whether it was torchrun, or another one whose command line is not known here."""
    return started_by_launcher() and not reports.are_read()


def count_devices(config: TrainConfig) -> int:
    """How many devices of this machine the run uses, each with a process of its own.

    Raises:
        UsageError: there are not so many, or they could not talk to one another.
    """
    if config.device == "cpu" or (config.device is None and not torch.cuda.is_available()):
        return config.devices or 1
    device = choose_device(config.device)
    if config.device is not None and ":" in config.device:
        if (config.devices or 1) > 1:
            raise UsageError(
                f"--device {config.device} names one GPU, but --devices asks for {config.devices}; give --device cuda, "
                "or choose GPUs with CUDA_VISIBLE_DEVICES."
            )
        return 1
    here = torch.cuda.device_count()
    wanted = config.devices or here
    if wanted > here:
        raise UsageError(f"--devices asks for {wanted} GPUs, but this machine has {here}; give at most that.")
    if wanted > 1:
        _require_backend(device)
    return wanted


def device_of_rank(config: TrainConfig) -> torch.device:
    """The device of this process: that of its rank on the machine, or the only one.

    Raises:
        UsageError: no such device is here.
    """
    if not started_by_launcher():
        return choose_device(config.device)
    if config.device == "cpu" or not torch.cuda.is_available():
        return choose_device(config.device)
    local, here = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= here:
        raise UsageError(
            f"The launcher started more processes than this machine has GPUs ({here}), so process {local} has none; "
            "start one for each GPU (torchrun --nproc-per-node gpu)."
        )
    return torch.device("cuda", local)


def local_world_size() -> int:
    """Processes of this run on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if started_by_launcher() else 1


def _require_backend(device: torch.device) -> None:
    if device.type == "cuda" and not dist.is_nccl_available():
        raise UsageError(
            f"Several GPUs talk to one another through NCCL, which this PyTorch ({torch.__version__}) lacks: install "
            "a CUDA build of PyTorch, or give --devices 1."
        )


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Inside, this process is one rank of the group that its environment names; without one it stays alone.

    Raises:
        UsageError: the port is taken, NCCL is missing, or the environment is incomplete.
        RetinaNetError: the other processes did not come.
    """
    if not started_by_launcher() or dist.is_initialized():
        yield
        return
    _require_backend(device)
    limit = timedelta(seconds=PATIENCE + _MARGIN)
    try:
        store, rank, world = next(iter(rendezvous("env://", timeout=limit)))
        # torchrun restarts on the same store, where the dead ranks' addresses still stand.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]
        cuda = device.type == "cuda"
        dist.init_process_group(
            # Small numbers of the host travel by gloo in any case: they must not wait for the GPU.
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.PrefixStore("group", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=world,
            timeout=limit,
            device_id=device if cuda else None,
        )
    except (ValueError, RuntimeError) as error:  # DistNetworkError and DistStoreError are RuntimeErrors
        raise _no_group(error) from error
    if device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // local_world_size()))
    together = False  # whether all ranks come to this end
    try:
        with Watchdog(store, rank, world, PATIENCE):
            yield
        together = True
    except Interrupted:
        together = True
        raise
    finally:
        if together:  # else NCCL would wait here for ranks that are elsewhere; the end of the process ends the group
            dist.destroy_process_group()


def _no_group(error: Exception) -> RetinaNetError:
    reason = str(error).partition("\n")[0]
    where = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    if "EADDRINUSE" in reason or "already in use" in reason:
        return UsageError(
            f"The ranks should meet at {where}, but another program uses that port: give another one "
            "(MASTER_PORT, or torchrun --master-port)."
        )
    if isinstance(error, ValueError):
        return UsageError(f"RANK and WORLD_SIZE are set, but not all that ranks need to meet ({reason}); use torchrun.")
    return RetinaNetError(
        f"Rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} could not meet the others at {where} ({reason}): "
        "check that all of them run, and that no firewall stands between the machines."
    )
