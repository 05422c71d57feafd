"""JSON that people write: what Python takes silently, or fails at otherwise, is told with its line."""

from __future__ import annotations

import json
import re
from typing import Any

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:]|NaN|-?Infinity|-?\d{400,}')
_LONGEST_NUMBER = 400
"""Digits; more than any number has that a float can hold, fewer than Python refuses to read."""


class NotJson(ValueError):
    """What is wrong, for people, and on which line (counted from 1)."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def parse_json(text: str) -> Any:
    """The value that ``text`` holds (RFC 8259).

    Raises:
        NotJson: it is none; a name stands twice in an object, so that one of two values would not count; a
            number that nothing can hold; nested deeper than Python reads. Names that begin with ``//`` are
            remarks, and may stand there several times.
    """
    _look_through(text)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON: {error.msg}", error.lineno) from None
    except RecursionError:
        raise NotJson("not JSON: nested too deep", 1) from None


def _look_through(text: str) -> None:
    names: list[set[str]] = []
    last = ""
    for token in _TOKEN.finditer(text):
        found = token.group()
        if found in "{[":
            names.append(set())
        elif found in "}]":
            if names:
                names.pop()
        elif found == ":" and names:
            if last in names[-1] and not last.startswith('"//'):
                raise NotJson(f"{last} stands twice in one object; leave one", _line(text, token.start()))
            names[-1].add(last)
        elif found[0] == '"':
            last = found
        elif len(found) >= _LONGEST_NUMBER:
            raise NotJson("not JSON: a number has too many digits", _line(text, token.start()))
        elif found != ":":
            raise NotJson(f"not JSON: {found} is no JSON number", _line(text, token.start()))


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
