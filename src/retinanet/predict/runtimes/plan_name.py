"""The record inside a plan: a plan has no place for text but its network's name, of at most 4,095 bytes."""

from __future__ import annotations

import json

from retinanet.errors import ModelError
from retinanet.predict.runtimes.artifact import ArtifactRecord

MOST_BYTES = 4095


def plan_name(record: ArtifactRecord) -> str:
    """The record on one line; without the names of the classes, then without their ids, where they make it too long."""
    text = record.to_json()
    for part in ("names", "ids"):
        if len(text) > MOST_BYTES:  # ASCII alone, so characters are bytes
            values = json.loads(text)
            values["classes"][part] = []
            text = json.dumps(values, separators=(",", ":"))
    return text


def record_of_name(name: str, where: object) -> ArtifactRecord:
    """The inverse of `plan_name`; a class whose name was left out is called by its id.

    Raises:
        ModelError: the plan at `where` was not made here, or its record is too long for a name.
    """
    try:
        values = json.loads(name)
        ids, names = (values["classes"][part] for part in ("ids", "names"))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{where} is a plan that was not made here: it says neither its classes nor its canvas; "
            "use one that `retinanet export` wrote."
        ) from error
    if not ids:
        raise ModelError(f"{where} has too many classes to name them inside; copy its record {where}.json beside it.")
    values["classes"]["names"] = names or [str(category_id) for category_id in ids]
    return ArtifactRecord.from_json(json.dumps(values), where)
