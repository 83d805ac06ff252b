"""Files that a reader never sees half of: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from retinanet.errors import RetinaNetError, UsageError

_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file grew beyond what is allowed here",
}
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], folder: Path | None = None) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`, with its ending; at the end it becomes `path`, whole.

    `folder` is another place for the temporary file, on the same file system, that is cleared after a killed process.

    Whatever goes wrong inside, the temporary file is removed and an old file at `path` stays as it was. A link is
    followed; a device or a pipe (`/dev/null`) has no place to be renamed to and is given as it is. Hand `torch.save`
    an open file, not the path: PyTorch's own writer does not say that the disk is full.

    Raises:
        UsageError: the folder does not exist or cannot be written, or `path` is a folder.
        RetinaNetError: the disk is full.
    """
    if is_device(path):
        yield Path(path)
        return
    target = Path(os.path.realpath(path))
    # The stem is cut so that the longer name stays within the 255 bytes of common file systems.
    temporary = (folder or target.parent) / f".{target.stem[:32]}-{secrets.token_hex(4)}{target.suffix}"
    _require_folder(target)
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        _raise_sentence(error, target, temporary)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def require_other_file(option: str, output: Path, *sources: Path | None) -> None:
    """Raise `UsageError` if what `option` names, `output`, is one of the files that the command reads."""
    for source in sources:
        if source is not None and output.exists() and source.exists() and output.samefile(source):
            raise UsageError(f"{option} {output} would overwrite what is read from it; name another file.")


def require_writable(path: str | os.PathLike[str]) -> None:
    """Check, before hours of work, that `atomic_write(path)` will find a folder that it may write in.

    Raises:
        UsageError: the folder does not exist or cannot be written, or `path` is a folder.
    """
    if is_device(path):
        return
    target = Path(os.path.realpath(path))
    _require_folder(target)
    probe = target.with_name(f".{secrets.token_hex(8)}")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        _raise_sentence(error, target, probe)
        raise UsageError(
            f"Cannot write {target}: {target.parent} takes no new file ({error.strerror}); name another folder."
        ) from error


def is_device(path: str | os.PathLike[str]) -> bool:
    """Whether there is a device or a pipe at `path`: nothing that could be renamed, replaced or have neighbours."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _require_folder(target: Path) -> None:
    if target.is_dir():
        raise UsageError(f"Expected the name of a file to write, but {target} is a folder: add a file name.")
    if not target.parent.is_dir():
        raise UsageError(f"Cannot write {target.name}: there is no folder {target.parent}; make it or name another.")


def _flush_to_disk(path: Path) -> None:
    """Without it, a power cut soon after the rename could leave an empty file in place of a good one."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _raise_sentence(error: BaseException, target: Path, temporary: Path) -> None:
    """Raise what the user can act on, where the file system is the cause."""
    # torch.save raises a RuntimeError of its own while the OSError that caused it is on its way.
    cause = error if isinstance(error, OSError) else error.__context__
    if not isinstance(cause, OSError):
        return
    if cause.errno in _NO_ROOM:
        raise RetinaNetError(
            f"Cannot write {target}: {_NO_ROOM[cause.errno]}; make room (an older file of that name is unchanged)."
        ) from error
    if cause.errno in _NOT_ALLOWED and cause.filename in (temporary, str(temporary)):
        raise UsageError(f"Cannot write {target}: {target.parent} is not writable; name another folder.") from error
