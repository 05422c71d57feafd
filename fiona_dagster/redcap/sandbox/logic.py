"""As much of filterLogic as a test server needs: comparisons, and, or, parentheses, checkboxes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fiona_dagster.redcap.dictionary import checkbox_column
from fiona_dagster.redcap.sandbox.formats import ApiError
from fiona_dagster.redcap.sandbox.store import Project

_TOKEN = re.compile(
    r"""\s*(?:(?P<field>(?:\[[a-z0-9_]+_arm_\d+\])?\[[a-z0-9_]+(?:\([^)\]]+\))?\])|(?P<text>'[^']*'|"[^"]*")|(?P<number>-?\d+(?:\.\d+)?)"""
    r"""|(?P<operator><>|!=|<=|>=|=|<|>)|(?P<word>and|or)\b|(?P<bracket>[()]))""",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

_Test = Callable[[Mapping[str, str]], bool]
_Value = Callable[[Mapping[str, str]], str]


@dataclass(frozen=True)
class Logic:
    """A parsed expression and the export names it looks at."""

    true_for: _Test
    names: set[str]


def parse_logic(text: str, project: Project) -> Logic | None:
    """The logic, or None for an empty text.

    Raises:
        ApiError: not understood, or names a field that the project has not.
    """
    if not text.strip():
        return None
    parser = _Parser(text, project)
    test = parser.disjunction()
    parser.end()
    return Logic(test, parser.names)


class _Parser:
    def __init__(self, text: str, project: Project) -> None:
        self._project = project
        self._tokens = _tokens(text)
        self._at = 0
        self.names: set[str] = set()

    def disjunction(self) -> _Test:
        tests = [self._conjunction()]
        while self._take("word", "or"):
            tests.append(self._conjunction())
        return lambda row: any(test(row) for test in tests)

    def end(self) -> None:
        if self._at != len(self._tokens):
            raise _wrong()

    def _conjunction(self) -> _Test:
        tests = [self._comparison()]
        while self._take("word", "and"):
            tests.append(self._comparison())
        return lambda row: all(test(row) for test in tests)

    def _comparison(self) -> _Test:
        if self._take("bracket", "("):
            inner = self.disjunction()
            if not self._take("bracket", ")"):
                raise _wrong()
            return inner
        left = self._value()
        sign = self._next("operator")
        right = self._value()
        return lambda row: _compare(left(row), sign, right(row))

    def _value(self) -> _Value:
        kind, text = self._peek()
        self._at += 1
        if kind == "field":
            name = self._column(text[1:-1])
            return lambda row: row.get(name, "")
        if kind in ("text", "number"):
            constant = text[1:-1] if kind == "text" else text
            return lambda _row: constant
        raise _wrong()

    def _column(self, text: str) -> str:
        event, bracket, inner = text.partition("][")
        if bracket and event not in self._project.setup.event_names:
            raise _wrong()
        field, _, code = (inner if bracket else text).rstrip(")").partition("(")
        name = checkbox_column(field, code) if code else field
        known = {
            *self._project.column_fields,
            *(f"{form}_complete" for form in self._project.dictionary.forms),
        }
        if name not in known:
            raise _wrong()
        self.names.add(name)
        return f"{event}|{name}" if bracket else name

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, kind: str, text: str) -> bool:
        found = self._peek()
        if found[0] == kind and found[1].lower() == text:
            self._at += 1
            return True
        return False

    def _next(self, kind: str) -> str:
        found = self._peek()
        if found[0] != kind:
            raise _wrong()
        self._at += 1
        return found[1]


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise _wrong()
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


def _compare(left: str, sign: str, right: str) -> bool:
    a: float | str = left
    b: float | str = right
    if _NUMBER.fullmatch(left) and _NUMBER.fullmatch(right):
        a, b = float(left), float(right)
    elif sign in ("<", "<=", ">", ">=") and (not left or not right):
        return False
    results = {
        "=": a == b,
        "<>": a != b,
        "!=": a != b,
    }
    if sign in results:
        return results[sign]
    if isinstance(a, str) or isinstance(b, str):
        a, b = left, right
    order = (a > b) - (a < b)  # type: ignore[operator]
    return {"<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[sign]


def _wrong() -> ApiError:
    return ApiError('The value of the parameter "filterLogic" is not valid')
