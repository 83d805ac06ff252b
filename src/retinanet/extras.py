"""Packages that only some commands need: imported where they are used, each with a sentence for where it is missing."""

from __future__ import annotations

import importlib
from typing import Any

from retinanet.errors import UsageError


def require(module: str, extra: str, purpose: str) -> Any:
    """The module, imported now; `extra` is ours that brings it, `purpose` begins the sentence.

    Raises:
        UsageError: it is not installed, or its installation is broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UsageError(f"{purpose} needs {package} ({error}): pip install 'retinanet[{extra}]'.") from error
