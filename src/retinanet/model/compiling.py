"""torch.compile where it pays: block by block, once for all sizes of images.

Compiling the whole network at once takes more than a minute, and again for every canvas. What it gains is that
neighbouring pointwise operations (batch norm, ReLU, sums) become one pass over memory, and such neighbours stand within
a block. Blocks of one kind share their code, and it is compiled with height and width free, so that no canvas and no
level of the pyramid needs its own.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import nn

from retinanet.model.heads import Head
from retinanet.model.network import RetinaNet

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_KINDS_OF_BLOCKS = 64
"""Blocks of one class that differ in widths, strides and the like; PyTorch gives up after 8 by default."""

COMPILING_PAYS_FROM = 5e10
"""Pixels of a training. On an H100 compiling takes one to three minutes, and saves 2.5 to 3 ns a pixel."""

Function = TypeVar("Function", bound=Callable)


def compile_blocks(network: RetinaNet) -> None:
    """Compile the blocks of `network` in place; nothing happens before they run, and `state_dict` stays as it is."""
    # PyTorch 2.11 warns hundreds of times that it cannot bound some expression of free sizes, which does no harm.
    logging.getLogger("torch.utils._sympy.interp").setLevel(logging.ERROR)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _KINDS_OF_BLOCKS)
    for block in blocks(network):
        block.compile(dynamic=True)
    level = torch.compile(Head.level, dynamic=True)
    for head in heads(network):
        # No bound method: a copy of the network would have the weights of this one.
        head.level = functools.partial(level, head)  # type: ignore[method-assign]


@contextlib.contextmanager
def uncompiled(network: RetinaNet) -> Iterator[None]:
    """Within it the blocks run as they were written: prediction would have them compiled anew."""
    calls = {block: block._compiled_call_impl for block in blocks(network)}
    levels = {head: head.__dict__.pop("level", None) for head in heads(network)}
    for block in calls:
        block._compiled_call_impl = None
    try:
        yield
    finally:
        for block, call in calls.items():
            block._compiled_call_impl = call
        for head, level in levels.items():
            if level is not None:
                head.level = level  # type: ignore[method-assign]


def blocks(network: RetinaNet) -> Iterator[nn.Module]:
    """The parts whose neighbouring operations can be joined."""
    for backbone, pyramid in zip(network.members, network.pyramids, strict=True):
        for child in backbone.body.children():
            yield from _blocks_within(child)
        yield pyramid


def heads(network: RetinaNet) -> tuple[Head, Head]:
    """What they do on one level is compiled: the compiler leaves PyTorch's own containers, their towers, alone."""
    return network.class_head, network.box_head


def _blocks_within(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, _CONTAINERS):
        for child in module.children():
            yield from _blocks_within(child)
    elif any(True for _ in module.children()) and not synchronises(module):  # a single layer has nothing to join
        yield module


def synchronises(module: nn.Module) -> bool:
    """Whether ranks talk to each other within it, which is not compiled."""
    return any(isinstance(part, nn.SyncBatchNorm) for part in module.modules())


@functools.cache
def compiled(function: Function) -> Function:
    """The function compiled: for the sizes of its first call, and once more with those free that then change."""
    return torch.compile(function)  # type: ignore[return-value]
