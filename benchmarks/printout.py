"""What a benchmark prints, kept for its page in results/ as well."""

from pathlib import Path

from retinanet.files import atomic_write

_lines: list[str] = []
_kept: list[Path] = []


def keep(path: Path | None) -> None:
    """From now on, have all that was said in the file at `path` too, whatever ends the benchmark."""
    if path is not None:
        _kept.append(path)


def say(line: str = "") -> None:
    """Print a line at once, and remember it; files to be kept are written anew, whole."""
    print(line, flush=True)
    _lines.append(line)
    for path in _kept:
        with atomic_write(path) as temporary:
            temporary.write_text("\n".join(_lines) + "\n")
