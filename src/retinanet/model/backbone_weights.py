"""Where a new model's backbone weights come from: timm's pretraining, a file, or nowhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import load_state_dict
from torch import Tensor

from retinanet.errors import ModelError, UsageError
from retinanet.model.backbone import Backbone

PRETRAINED = "pretrained"
NONE = "none"
HUB_FILE = "model.safetensors"


def load_backbone_weights(backbone: Backbone, weights: str) -> None:
    """Fill `backbone` with `pretrained` weights of timm, with those of a file, or leave it random (`none`).

    A file holds a state dict of the whole timm model or of its features, as `torch.save` writes it (read with
    `weights_only=True`) or as .safetensors; keys of its classifier are ignored.

    Raises:
        UsageError: timm's weights can't be had, or there is no such file.
        ModelError: the file can't be read, or lacks what the backbone needs.
    """
    if weights == NONE:
        return
    if weights == PRETRAINED:
        _fill(backbone, _pretrained(backbone.record.name), f"The pretrained weights of {backbone.record.name}")
    else:
        _fill(backbone, _read(Path(weights)), f"The file {weights}")


def _pretrained(name: str) -> dict[str, Tensor]:
    print(f"Getting timm's pretrained weights of {name} (downloaded once, then read from its cache)", file=sys.stderr)
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=_cached_file(name))
    except Exception as error:  # whatever the hub's client, the network or the disk may raise
        raise UsageError(
            f"The pretrained weights of {name} are neither in timm's cache nor to be had from the network "
            f"({type(error).__name__}); give --weights FILE, or --weights none to train from random ones."
        ) from error
    state: dict[str, Tensor] = model.state_dict()
    return state


def _cached_file(name: str) -> dict[str, str]:
    """What makes timm read the cached weights, so that they need no network; empty where it must download them.

    In that case the hub is asked once whether it is there: its client would go on asking for most of a minute.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return {}
    cached = try_to_load_from_cache(config.hf_hub_id, HUB_FILE)
    if isinstance(cached, str):
        return {"file": cached}
    with contextlib.suppress(EntryNotFoundError):  # the hub answered; timm knows other file names
        get_hf_file_metadata(hf_hub_url(config.hf_hub_id, HUB_FILE))
    return {}


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"--weights should be pretrained, none or a file of weights, but there is no file {path}.")
    try:
        state = load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
        return {key: value for key, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # torch, pickle, zip and safetensors each have their own
        raise ModelError(
            f"{path} should hold a timm model's state dict, but it can't be read as one ({type(error).__name__}); "
            "write it with torch.save(model.state_dict(), FILE) or as .safetensors."
        ) from error


def _fill(backbone: Backbone, state: dict[str, Tensor], source: str) -> None:
    """Copy into every parameter and buffer its value of `state`, which may name them as the whole model does."""
    wanted = backbone.body.state_dict()
    found = {key: state[name] for key in wanted for name in _names(key) if name in state}
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    wrong = [key for key in found if found[key].shape != wanted[key].shape]
    for problem, keys in (("lacks", missing), ("has other shapes for", wrong)):
        if keys:
            raise ModelError(
                f"{source} should hold the weights of timm's {backbone.record.name}, but it {problem} {len(keys)} of "
                f"{len(wanted)} keys ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}); "
                "give the weights of this backbone, or the backbone of these weights."
            )
    backbone.body.load_state_dict(found, strict=False)


def _names(key: str) -> Iterator[str]:
    """What the whole timm model may call the `key` of its feature extractor; a later name wins."""
    first, _, rest = key.partition(".")
    # FeatureListNet flattens containers: stages.0.conv becomes stages_0.conv.
    for position, character in enumerate(first):
        if character == "_":
            yield f"{first[:position]}.{first[position + 1 :]}.{rest}"
    if first in ("model", "body"):  # FeatureGetterNet and FeatureHookNet wrap it
        yield rest
    yield key
