"""How a value is refused."""

from __future__ import annotations

from retinanet.errors import UsageError


def require(condition: bool, sentence: str) -> None:
    """Raise `UsageError` with `sentence` unless `condition` holds."""
    if not condition:
        raise UsageError(sentence)
