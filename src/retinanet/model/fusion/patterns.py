"""Finds, in a traced module, what one call can do instead of several."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn
from torch.fx import Node
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from retinanet.model.fusion.layers import ConvRelu
from retinanet.model.fusion.trace import read_modules

_RELU_CALLS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
_IDLE = (nn.Identity, nn.Dropout, nn.Dropout2d)
_ADD_CALLS = (operator.add, operator.iadd, torch.add, "add", "add_")


class Fuser:
    """Rewrites the graph of one traced module in place."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.graph = traced.graph
        self.calls = Counter(node.target for node in self.graph.nodes if node.op == "call_module")
        self.read = read_modules(self.graph)

    def drop_idle(self) -> None:
        """Remove calls that change nothing."""
        for node in self.graph.nodes:
            module = self._module(node)
            if isinstance(module, _IDLE):
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)

    def fold_batch_norms(self) -> None:
        """Fold each batch norm into the convolution before it."""
        for node in self.graph.nodes:
            norm = self._module(node)
            if not isinstance(norm, nn.BatchNorm2d) or self.calls[node.target] > 1:
                continue
            source = node.args[0]
            conv = self._conv_of(source, (nn.Conv2d, Conv2dSame))
            if conv is None:
                continue
            self._set_module(source.target, fuse_conv_bn_eval(conv, norm))
            result = source
            if isinstance(norm, BatchNormAct2d) and not isinstance(norm.act, nn.Identity):
                with self.graph.inserting_before(node):
                    result = self.graph.call_module(f"{node.target}.act", (source,))
            node.replace_all_uses_with(result)
            self.graph.erase_node(node)

    def join_relus(self) -> None:
        """Make each ReLU part of the convolution before it, and so an addition between the two."""
        for relu in self.graph.nodes:
            if not (_calls(relu, _RELU_CALLS) or isinstance(self._module(relu), nn.ReLU)):
                continue
            source, residual = relu.args[0], None
            if _is_sum(source):
                conv_node, residual = source.args
                if self._conv_of(conv_node, (nn.Conv2d,)) is None:
                    conv_node, residual = residual, conv_node
            else:
                conv_node = source
            conv = self._conv_of(conv_node, (nn.Conv2d,))
            if conv is None or not _is_joinable(conv):
                continue
            if residual is not None:
                _move_bias(self._conv_of(residual, (nn.Conv2d,)), conv)
            self._set_module(conv_node.target, ConvRelu(conv))
            with self.graph.inserting_before(relu):
                inputs = conv_node.args if residual is None else (*conv_node.args, residual)
                relu.replace_all_uses_with(self.graph.call_module(conv_node.target, inputs))
            for node in (relu, source, conv_node) if residual is not None else (relu, conv_node):
                self.graph.erase_node(node)

    def _module(self, node: Node) -> nn.Module | None:
        return self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _set_module(self, target: str, module: nn.Module) -> None:
        parent, _, name = target.rpartition(".")
        setattr(self.traced.get_submodule(parent), name, module)

    def _conv_of(self, node: Node, kinds: tuple[type[nn.Module], ...]) -> Any:
        """The convolution that `node` calls, if its result and its weights are used here alone.

        Subclasses do not count: theirs may be weights that are computed from others.
        """
        conv = self._module(node)
        alone = len(node.users) == 1 and self.calls[node.target] == 1 and node.target not in self.read
        return conv if alone and type(conv) in kinds else None


def _calls(node: Node, functions: tuple[object, ...]) -> bool:
    return node.op in ("call_function", "call_method") and node.target in functions


def _is_sum(node: Node) -> bool:
    """Whether this is nothing but one tensor plus another, used once."""
    tensors = len(node.args) == 2 and all(isinstance(value, Node) for value in node.args)
    return _calls(node, _ADD_CALLS) and tensors and not node.kwargs and len(node.users) == 1


def _is_joinable(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"


def _move_bias(source: nn.Conv2d | None, target: nn.Conv2d) -> None:
    """Of two convolutions that are added, only one needs a bias: without, a convolution is one call."""
    if source is None or source.bias is None:
        return
    bias = source.bias if target.bias is None else source.bias + target.bias
    target.bias = nn.Parameter(bias.detach(), requires_grad=False)
    source.bias = None
