"""What an unfinished run of `retinanet infer` keeps, and whether another may go on with it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retinanet.config import InferConfig, PostprocessConfig
from retinanet.data.annotations import CocoData
from retinanet.errors import Interrupted, UsageError
from retinanet.files import is_device
from retinanet.predict.journal import Journal

_DECISIVE = ("resize", "max_size", "canvas", "precision")
"""Of an `InferConfig`, what changes the results."""


def describe_run(
    model: Path, data: CocoData, config: InferConfig, postprocess: PostprocessConfig | None, draw: Path | None
) -> dict[str, Any]:
    """What two runs must share for one to go on with the other's images: checksums, and options by name."""
    with model.open("rb") as file:
        digest_of_model = hashlib.file_digest(file, "sha256").hexdigest()
    images = hashlib.sha256(data.image_ids.tobytes() + data.sizes.tobytes())
    for index in range(len(data)):
        images.update(data.file_names[index].encode("utf-8", "surrogatepass") + b"\0")
    options = {name: getattr(config, name) for name in _DECISIVE} | asdict(postprocess or PostprocessConfig())
    return {
        "model": digest_of_model,
        "images": images.hexdigest(),
        **{f"--{name.replace('_', '-')}": value for name, value in options.items()},
        "--draw": draw and str(draw),
    }


@contextlib.contextmanager
def open_journal(output: Path, run: dict[str, Any], total: int, *, resume: bool) -> Iterator[Journal]:
    """The journal of a run over `total` images: OUTPUT.partial, which is gone when all is well, or nothing is done.

    Otherwise a sentence on stderr says what is kept, which for an interruption is the error's.

    Raises:
        UsageError: the unfinished run is not this one, or cannot be resumed.
        Interrupted: a `KeyboardInterrupt` or another `Interrupted` came.
    """
    with contextlib.ExitStack() as stack:
        if is_device(output):
            if resume:
                raise UsageError(f"--resume needs an --output that is a file, but {output} is a device or a pipe.")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "results"
        else:
            target = Path(os.path.realpath(output))  # which may be on another disk than a link to it
            folder = target.with_name(f"{target.name}.partial")
        journal = Journal(folder, run, resume=resume)
        try:
            yield journal
        except BaseException as error:
            kept = 0 if is_device(output) else sum(len(finished.image_ids) for finished in journal.finished())
            sentence = (
                f"{kept:,} of {total:,} images are done and kept in {folder}: the same command with --resume does the "
                "others."
            )
            if not kept:
                journal.remove()
            if isinstance(error, KeyboardInterrupt | Interrupted):
                raise Interrupted(f"Interrupted: {sentence if kept else 'no image was finished.'}") from None
            if kept:
                print(sentence, file=sys.stderr)
            raise
        journal.remove()
