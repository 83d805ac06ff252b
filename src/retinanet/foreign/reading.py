"""Foreign files, read without running what they may hold, and checked against the network that they should fill."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retinanet.errors import ModelError
from retinanet.model.network import RetinaNet
from retinanet.model.record import ModelRecord


@dataclass(frozen=True)
class Categories:
    """What the categories of an annotation file say, in the file's order."""

    source: Path
    ids: tuple[int, ...]
    names: tuple[str, ...]


def read_foreign(path: Path) -> dict[str, Any]:
    """What `torch.save` put into `path`, in its present or its old format: tensors and plain values alone.

    Raises `ModelError` when there is no such file, when it holds code or other objects, or no dictionary.
    """
    if not path.is_file():
        raise ModelError(f"There is no file {path} to import; check its name.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} should hold tensors and plain values, but it holds other objects or is no file of torch.save; "
            "code is never loaded: save the state dict alone, torch.save(model.state_dict(), FILE)."
        ) from error
    except Exception as error:  # a damaged archive fails in many ways
        raise ModelError(f"{path} is damaged ({type(error).__name__}); use another copy of it.") from error
    if not isinstance(content, dict):
        raise ModelError(
            f"{path} should hold a state dict, but it holds a {type(content).__name__}; "
            "save torch.save(model.state_dict(), FILE)."
        )
    return content


def fill(path: Path, record: ModelRecord, state: Mapping[str, Tensor], origin: str) -> RetinaNet:
    """The network of `record` with the renamed weights `state`; `origin` names the kind of model in a complaint.

    How often batch norm has seen a batch is not asked for: frozen batch norm does not know.
    Raises `ModelError` when a weight is missing, of another shape or unknown.
    """
    network = RetinaNet(record)
    expected = network.state_dict()
    unknown = [key for key in state if key not in expected]
    known = {key: value for key, value in state.items() if key in expected}
    counters = {key: value for key, value in expected.items() if key.endswith("num_batches_tracked")}
    filled = {**counters, **known}
    wrong = [key for key in expected if key not in filled or filled[key].shape != expected[key].shape] + unknown
    if wrong:
        raise ModelError(
            f"{path} should hold the weights of {origin}, but {len(wrong)} of them are missing, unknown or of another "
            f"shape ({', '.join(wrong[:3])}); import a checkpoint of this architecture."
        )
    network.load_state_dict(filled)
    return network
