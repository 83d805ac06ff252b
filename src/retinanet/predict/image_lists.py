"""What lies beside a results file: which id is which image, and which images could not be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from retinanet.data.annotations import CocoData
from retinanet.files import atomic_write
from retinanet.types import ClassMap


def write_image_list(output: Path, data: CocoData, classes: ClassMap) -> Path:
    """Say beside the results of unannotated images which id is which file: `detections.images.json`, which is returned.

    It is an annotation file without annotations (images and categories), so COCO tools load the results with it.
    """
    path = output.with_suffix(".images.json")
    images = [
        {"id": image_id, "file_name": data.file_names[index], "width": width, "height": height}
        for index, (image_id, (height, width)) in enumerate(
            zip(data.image_ids.tolist(), data.sizes.tolist(), strict=True)
        )
    ]
    categories = [{"id": id_, "name": name} for id_, name in zip(classes.ids, classes.names, strict=True)]
    with atomic_write(path) as temporary:
        content = {"images": images, "annotations": [], "categories": categories}
        temporary.write_text(json.dumps(content, indent=1), encoding="ascii")
    return path


def write_failed_list(output: Path, failed: Mapping[int, str]) -> Path | None:
    """List the images without results, id and reason, in `detections.failed.tsv`, which is returned; None of none."""
    path = output.with_suffix(".failed.tsv")
    if not failed:
        path.unlink(missing_ok=True)  # an earlier run's
        return None
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write("image_id\treason\n")
        file.writelines(f"{image_id}\t{' '.join(reason.split())}\n" for image_id, reason in sorted(failed.items()))
    return path
