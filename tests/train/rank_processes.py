"""Two processes that are ranks of one group, as a launcher starts them, to run a test's function in."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch

from retinanet.train.distributed import global_sum
from retinanet.train.ranks import process_group

CPU = torch.device("cpu")


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_environment(rank: int, port: int, world: int = 2) -> dict[str, str]:
    """What a launcher says to each process."""
    return {
        **{"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }


def on_two_ranks(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)` returns on each of two ranks; its exceptions are raised here."""
    context = multiprocessing.get_context("spawn")
    port = free_port()
    with context.Pool(2) as pool:
        jobs = [pool.apply_async(_as_rank, (rank, port, function, arguments)) for rank in range(2)]
        return [job.get(timeout=300) for job in jobs]


def _as_rank(rank: int, port: int, function: Callable[..., Any], arguments: tuple) -> Any:
    os.environ.update(rank_environment(rank, port))
    torch.set_num_threads(1)
    with process_group(CPU):
        return function(rank, *arguments)


def meet_again(rank: int, port: int, attempt: int, late: float) -> int:
    """Join the group of a restarted run, as a process that torchrun started; the sum of both ranks' numbers plus 1."""
    os.environ.update(rank_environment(rank, port))
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT=str(attempt))
    time.sleep(late * rank)
    with process_group(CPU):
        return int(global_sum(torch.tensor([rank + 1.0])))
