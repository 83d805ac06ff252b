"""Whether annotations and a model mean the same by their category ids."""

from __future__ import annotations

from retinanet.data.annotations import CocoData
from retinanet.errors import DataError
from retinanet.types import ClassMap


def require_same_classes(data: CocoData, model: ClassMap) -> None:
    """Check, before hours of work, that results of `model` can be scored against `data`.

    Either may lack classes of the other, as long as they share one. Raises `DataError` where an id or a name of the
    annotations is another class's in the model, or when they share none.
    """
    assert data.classes is not None
    known = dict(zip(model.ids, model.names, strict=True))
    classes = list(zip(data.classes.ids, data.classes.names, strict=True))
    others = [(id_, name) for id_, name in classes if known.get(id_) != name]
    share_none = len(others) == len(classes)
    for id_, name in others:
        if share_none or id_ in model.ids or name in model.names:
            expected = ", ".join(f"{id_} {name}" for id_, name in list(known.items())[:5])
            raise DataError(
                f"{data.source} should have the categories of the model ({expected}{', …' if len(known) > 5 else ''}), "
                f"but it has {id_} {name}; give annotations with the ids and names that the model was trained for."
            )
