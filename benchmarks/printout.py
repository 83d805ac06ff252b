"""What a benchmark prints, kept for its page in results/ as well."""

from pathlib import Path

_lines: list[str] = []


def say(line: str = "") -> None:
    """Print a line at once, and remember it."""
    print(line, flush=True)
    _lines.append(line)


def write(path: Path) -> None:
    """All that was said, as a file."""
    path.write_text("\n".join(_lines) + "\n")
