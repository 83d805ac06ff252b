"""What the ranks of a run do together. In a run of one process each function returns what it was given.

Every rank takes part in every call, in the same order: there is no collective on one rank alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from retinanet.errors import UsageError
from retinanet.train.watchdog import meeting

T = TypeVar("T", bound=nn.Module)

BUCKET_ELEMENTS = 16 * 2**20
"""Gradients are sent in buckets of about this many numbers: one is packed while another is on its way."""


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def global_sum(tensor: Tensor) -> Tensor:
    """The sum over all ranks of a tensor of one shape, without gradient; waits for no device."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all ranks; one that a rank lacks counts as zero.

    This comes after the backward pass, not within it by hooks on parameters as in DistributedDataParallel: compiled
    code hands its gradients over in blocks anyway, what is summed over parts is sent once, and no rank depends on the
    order in which another one's gradients become ready, or on whether they do.
    """
    if world_size() == 1:
        return
    on_their_way = []
    for bucket in _buckets([_flat_gradient(parameter) for parameter in parameters]):
        packed = torch.cat(bucket)
        on_their_way.append((bucket, packed, dist.all_reduce(packed, async_op=True)))
    for bucket, packed, work in on_their_way:
        work.wait()
        torch._foreach_copy_(bucket, torch.split(packed, [gradient.numel() for gradient in bucket]))


def _flat_gradient(parameter: nn.Parameter) -> Tensor:
    """Its gradient's own memory, one number after the other in the parameter's order, which all ranks share.

    To flatten a channels-last tensor by its shape would turn it around, once on the way out and once on the way in.
    """
    gradient = parameter.grad
    if gradient is None or not _same_order(gradient, parameter):
        laid_out = torch.zeros_like(parameter)
        parameter.grad = laid_out if gradient is None else laid_out.copy_(gradient)
    assert parameter.grad is not None
    return parameter.grad.as_strided((parameter.numel(),), (1,))


def _same_order(one: Tensor, other: Tensor) -> bool:
    """Whether numbers of tensors of one shape lie alike; a side of 1 may have any stride."""
    return all(a == b for a, b, side in zip(one.stride(), other.stride(), one.shape, strict=True) if side > 1)


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        bucket.append(gradient)
        size += gradient.numel()
        if size >= BUCKET_ELEMENTS:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def average_over_ranks(buffers: Sequence[Tensor]) -> None:
    """Replace each floating-point buffer by its mean over all ranks."""
    if world_size() == 1 or not buffers:
        return
    floats = [buffer for buffer in buffers if buffer.is_floating_point()]
    mean = global_sum(torch.cat([buffer.reshape(-1) for buffer in floats])) / world_size()
    for part, buffer in zip(torch.split(mean, [buffer.numel() for buffer in floats]), floats, strict=True):
        buffer.copy_(part.view_as(buffer))


class Tally:
    """Host numbers summed over all ranks while the device works: begun with the own numbers, read later.

    `name` says in a time-out what the ranks waited for. It travels by gloo, so neither beginning nor reading waits for
    a GPU.
    """

    def __init__(self, name: str, *numbers: int) -> None:
        self._name = name
        self._numbers = torch.tensor(numbers, dtype=torch.int64)
        self._work = dist.all_reduce(self._numbers, async_op=True) if world_size() > 1 else None

    def read(self) -> list[int]:
        """The sums."""
        if self._work is not None:
            with meeting(self._name):
                self._work.wait()
        return self._numbers.tolist()


def gather_rows(name: str, rows: np.ndarray) -> np.ndarray:
    """`[R, …]` of all ranks, R as it may be on each, one below the other in the order of the ranks, on every rank."""
    if world_size() == 1:
        return rows
    own = torch.from_numpy(np.ascontiguousarray(rows))
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    with meeting(name):
        dist.all_gather(counts, torch.tensor([len(own)]))
        most = max(int(count) for count in counts)
        if most == 0:
            return rows
        padded = torch.zeros((most, *own.shape[1:]), dtype=own.dtype)
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
    return np.concatenate([part[: int(count)].numpy() for part, count in zip(parts, counts, strict=True)])


def gather_broken(broken: Mapping[str, str]) -> dict[str, str]:
    """The unusable images that all ranks met, path → what is wrong with it, on every rank."""
    lines = "".join(f"{json.dumps(item)}\n" for item in broken.items()).encode()
    gathered = gather_rows("the list of unusable images", np.array(bytearray(lines), dtype=np.uint8)).tobytes()
    return dict(json.loads(line) for line in gathered.splitlines())


def require_same(what: str, values: object) -> None:
    """Make sure that all ranks start from the same, values that are equal where their `repr` is.

    Raises:
        UsageError: they do not.
    """
    digest = int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:6])
    total, own = Tally(f"the comparison of {what}", digest).read()[0], digest
    if total != own * world_size():
        raise UsageError(
            f"All processes of a run must see the same {what}, but they differ: start them with the same command, and "
            "keep MODEL, images and annotations where every machine reaches them under one path."
        )


def share_weights(network: nn.Module) -> None:
    """Give every rank the weights of rank 0, which may differ where machines compute their random numbers."""
    if world_size() > 1:
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, src=0)


def synchronise_batch_norm(network: T) -> T:
    """Let live batch norm see the global batch, on GPUs. Frozen norms stay as they are.

    On CPUs PyTorch has no such norm: there each rank normalises by its own images, and `TrainStep` averages what the
    norms keep.
    """
    if world_size() == 1 or not next(network.parameters()).is_cuda:
        return network
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            parent = network.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], convert_sync_batchnorm(module))
    return network


def barrier(name: str) -> None:
    """Wait until every rank has come here."""
    Tally(name, 1).read()
