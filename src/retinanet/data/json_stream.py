"""Read a large JSON object piece by piece: memory stays at one array element, whatever the file's size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from retinanet.errors import DataError

CHUNK = 1 << 20
"""Characters read at a time."""

# This close to the end of what was read the scanner may fail, or find too short a number, merely because a token (a
# literal, a number, an escape sequence) is cut there; further away it is an error of the file.
_LONGEST_CUT_TOKEN = 64
_AFTER_VALUE = tuple(" \t\r\n,:]}")


def stream_members(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the file's top-level object; the elements of an array come one by one under its key.

    An empty array yields (key, None) once, so that its presence is known. NaN and Infinity are accepted.
    Raises `DataError` with line and column where the file is not JSON, or is no object.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from _Reader(path, file).members()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} should be a JSON file, but is not UTF-8 text; give the annotation file, unpacked, in UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}); give an annotation file.") from error


class _Reader:
    """A window of text that moves over the file; `position` is where in it the next token starts."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.text, self.position, self.at_end = "", 0, False
        self.line, self.column = 1, 1  # of the window's first character
        self.decode = json.JSONDecoder().raw_decode

    def members(self) -> Iterator[tuple[str, Any]]:
        if self.peek() != "{":
            self.fail("expected an object with images, annotations and categories")
        self.position += 1
        if self.peek() == "}":
            self.position += 1
        else:
            yield from self.members_to_brace()
        if self.peek():
            self.fail("expected the end of the file")

    def members_to_brace(self) -> Iterator[tuple[str, Any]]:
        while True:
            if self.peek() != '"':
                self.fail("expected a name in double quotes")
            key = self.value()
            self.take(":")
            if self.peek() == "[":
                for element in self.elements():
                    yield key, element
            else:
                yield key, self.value()
            if self.take(",}") == "}":
                return

    def elements(self) -> Iterator[Any]:
        self.take("[")
        if self.peek() == "]":
            self.position += 1
            yield None
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def peek(self) -> str:
        """The next character that is not white space, '' at the file's end."""
        while True:
            while self.position < len(self.text):
                character = self.text[self.position]
                if character not in " \t\r\n":
                    return character
                self.position += 1
            if self.at_end:
                return ""
            self.read_on()

    def take(self, expected: str) -> str:
        character = self.peek()
        if not character or character not in expected:
            self.fail("expected " + " or ".join(f"'{one}'" for one in expected))
        self.position += 1
        return character

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.position)
            except json.JSONDecodeError as error:
                in_string = error.msg.startswith("Unterminated string")
                if self.at_end or not (in_string or self.may_be_cut(error.pos)):
                    self.position = error.pos
                    what = error.msg[0].lower() + error.msg[1:]
                    self.fail("expected a string's closing quotes, found the file's end" if in_string else what)
            except (RecursionError, ValueError) as error:
                self.fail(str(error))
            else:
                if self.at_end or self.text[end : end + 1] in _AFTER_VALUE or not self.may_be_cut(end):
                    self.position = end
                    return value
            self.read_on()

    def may_be_cut(self, position: int) -> bool:
        return position > len(self.text) - _LONGEST_CUT_TOKEN

    def read_on(self) -> None:
        """Drop what is consumed and read as much again as is left, so that a long element is not scanned too often."""
        done, rest = self.text[: self.position], self.text[self.position :]
        self.line, self.column = self.place(done)
        more = self.file.read(max(CHUNK, len(rest)))
        self.text, self.position, self.at_end = rest + more, 0, not more

    def place(self, done: str) -> tuple[int, int]:
        breaks = done.count("\n")
        return self.line + breaks, len(done) - done.rfind("\n") if breaks else self.column + len(done)

    def fail(self, what: str) -> None:
        line, column = self.place(self.text[: self.position])
        if self.at_end and not self.text[self.position :].strip():
            what += ", found the file's end"
        raise DataError(
            f"{self.path} is not a COCO annotation file: {what} at line {line}, column {column}; correct the file."
        )
