"""JSON values with the line on which each begins, for messages that a person can act on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Located:
    """A JSON value, the line on which it begins, and its text's position."""

    value: object
    line: int
    start: int


def items(text: str, start: int = 0) -> list[Located]:
    """The elements of the array that begins at ``start``.

    Raises:
        json.JSONDecodeError: the text is not JSON.
    """
    found: list[Located] = []
    position = _skip(text, start) + 1  # behind the bracket
    while text[_skip(text, position)] != "]":
        position = _skip(text, position)
        value, end = _DECODER.raw_decode(text, position)
        found.append(Located(value, line_of(text, position), position))
        position = _skip(text, end)
        if text[position] == ",":
            position += 1
    return found


def member(text: str, start: int, key: str) -> Located | None:
    """The value of ``key`` (the last, as JSON readers take it) in the object that begins at ``start``."""
    found = None
    position = _skip(text, start) + 1
    while text[_skip(text, position)] != "}":
        name, end = _DECODER.raw_decode(text, _skip(text, position))
        position = _skip(text, _skip(text, end) + 1)  # behind the colon
        value, end = _DECODER.raw_decode(text, position)
        if name == key:
            found = Located(value, line_of(text, position), position)
        position = _skip(text, end)
        if text[position] == ",":
            position += 1
    return found


def line_of(text: str, position: int) -> int:
    """Line number, counted from 1."""
    return text.count("\n", 0, position) + 1


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position
