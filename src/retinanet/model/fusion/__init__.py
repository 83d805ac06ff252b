"""The network for inference on a GPU: its convolutions joined with what surrounds them (norms, additions, ReLUs)."""

from __future__ import annotations

from functools import partial
from typing import cast

from torch import fx, nn

from retinanet.model.fpn import FPN
from retinanet.model.fusion.kernels import STEM_CHANNELS, faster, use_kernels, widen_stem
from retinanet.model.fusion.patterns import Fuser
from retinanet.model.fusion.pyramid import merge
from retinanet.model.fusion.streams import SideBySide
from retinanet.model.fusion.trace import trace
from retinanet.model.network import RetinaNet
from retinanet.ops.normalise import normalise, reference


def fused(network: RetinaNet) -> RetinaNet:
    """The same detector for inference alone, batch norm folded into its weights; `network` is used up.

    Whatever cannot be traced or joined runs as it was.
    """
    pyramids = cast(list[FPN], list(network.pyramids))
    for backbone, pyramid, widened in zip(network.members, pyramids, _join(network), strict=True):
        if isinstance(backbone.body, fx.GraphModule):
            use_kernels(backbone.body)
        backbone.normalise = partial(normalise, channels=STEM_CHANNELS) if widened else normalise
        pyramid.output = nn.ModuleList(map(faster, pyramid.output))
        pyramid.p6, pyramid.p7 = faster(pyramid.p6), faster(pyramid.p7)
        pyramid.merge = partial(merge, list(pyramid.lateral))  # type: ignore[assignment, arg-type]
    for head in (network.class_head, network.box_head):
        head.predict = faster(head.predict)  # type: ignore[assignment]
    network.run_heads = SideBySide(network.class_head, network.box_head)  # type: ignore[method-assign]
    return network


def joined(network: RetinaNet) -> RetinaNet:
    """What a compiler does well with: only the convolutions are joined, the rest is ordinary; `network` is used up."""
    for backbone, widened in zip(network.members, _join(network), strict=True):
        if widened:
            backbone.normalise = partial(reference.normalise, channels=STEM_CHANNELS)
    return network


def _join(network: RetinaNet) -> list[bool]:
    """Join the convolutions of backbones and heads; says of each backbone whether it takes `STEM_CHANNELS` now."""
    network.eval()
    for head in (network.class_head, network.box_head):
        head.tower = fuse_module(head.tower)  # type: ignore[assignment]
    widened = []
    for backbone in network.members:
        backbone.body = fuse_module(backbone.body)
        widened.append(isinstance(backbone.body, fx.GraphModule) and widen_stem(backbone.body))
    return widened


def fold_batch_norms(network: RetinaNet) -> RetinaNet:
    """The same detector for inference alone, of ordinary modules; `network` is used up.

    Batch norms are folded into the convolutions before them where the backbone's graph can be had. Their statistics
    must be folded before a network is made half precision, which knows no variance below 6e-8: a channel that died in
    pretraining has one, and without an epsilon, as in torchvision's weights, it would become infinite.
    """
    network.eval()
    for backbone in network.members:
        traced = trace(backbone.body)
        if traced is not None:
            Fuser(traced).fold_batch_norms()
            backbone.body = _finished(traced)
    return network


def fuse_module(module: nn.Module) -> nn.Module:
    """The part of a network that `module` is, joined as far as its graph can be had; it is used up.

    It must be in inference: batch norm in training would have to see what comes out of the convolution.
    """
    assert not module.training
    traced = trace(module)
    if traced is None:
        return module
    fuser = Fuser(traced)
    fuser.drop_idle()
    fuser.fold_batch_norms()
    fuser.join_relus()
    return _finished(traced)


def _finished(traced: fx.GraphModule) -> fx.GraphModule:
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
