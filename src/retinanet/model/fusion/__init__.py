"""The network with its convolutions joined with what surrounds them: norms, additions, ReLUs."""

from __future__ import annotations

import copy
from functools import partial
from typing import TypeVar, cast

from torch import fx, nn

from retinanet.model.fpn import FPN
from retinanet.model.fusion.kernels import STEM_CHANNELS, faster, use_kernels, widen_stem
from retinanet.model.fusion.patterns import Fuser
from retinanet.model.fusion.pyramid import merge
from retinanet.model.fusion.streams import SideBySide
from retinanet.model.fusion.trace import trace
from retinanet.model.network import RetinaNet
from retinanet.ops.normalise import normalise

_Module = TypeVar("_Module", bound=nn.Module)


def fused(network: RetinaNet) -> RetinaNet:
    """The same detector for inference alone, batch norm folded into its weights; `network` is used up.

    Whatever cannot be traced or joined runs as it was.
    """
    network = _rebuilt(network.eval())
    for backbone, pyramid in zip(network.members, cast(list[FPN], list(network.pyramids)), strict=True):
        widened = False
        if isinstance(backbone.body, fx.GraphModule):
            use_kernels(backbone.body)
            widened = widen_stem(backbone.body)
        backbone.normalise = partial(normalise, channels=STEM_CHANNELS) if widened else normalise
        pyramid.output = nn.ModuleList(map(faster, pyramid.output))
        pyramid.p6, pyramid.p7 = faster(pyramid.p6), faster(pyramid.p7)
        pyramid.merge = partial(merge, list(pyramid.lateral))  # type: ignore[assignment, arg-type]
    for head in (network.class_head, network.box_head):
        head.predict = faster(head.predict)
    network.run_heads = SideBySide(network.class_head, network.box_head)  # type: ignore[method-assign]
    return network


def joined(network: RetinaNet) -> RetinaNet:
    """A view of `network`, which is in training: it has the same parameters, and what it learns `network` has learnt.

    Only frozen batch norm is joined: live one must see what comes out of the convolution.
    """
    assert network.training
    return _rebuilt(network)


def _rebuilt(network: RetinaNet) -> RetinaNet:
    view = _view(network)
    view.backbones = nn.ModuleList(_view(backbone) for backbone in network.backbones)
    view.class_head, view.box_head = _view(network.class_head), _view(network.box_head)
    parts = [*((backbone, "body") for backbone in view.backbones), (view.class_head, "tower"), (view.box_head, "tower")]
    for owner, name in parts:
        setattr(owner, name, fuse_module(getattr(owner, name)))
    return view


def fuse_module(module: nn.Module) -> nn.Module:
    """The part of a network that `module` is, joined as far as its graph can be had; weights are shared."""
    traced = trace(module)
    if traced is None:
        return module
    fuser = Fuser(traced)
    fuser.drop_idle()
    fuser.fold_batch_norms()
    fuser.join_relus()
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _view(module: _Module) -> _Module:
    """Another module of the same parts, whose parts can be replaced."""
    view = copy.copy(module)
    view._modules = dict(module._modules)
    return view
