"""Misbehaviour on demand, so that tests can see what the client does about it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "status",
    "delay",
    "html",
    "empty",
    "cut",
    "ban",
    "redirect",
    "error_format",
    "dictionary",
    "cut_after_import",
    "count_zero",
    "ignored",
    "duplicate",
]
_IMPORTS = ("cut_after_import", "count_zero", "ignored", "duplicate")


@dataclass(frozen=True)
class Fault:
    """One misbehaviour of one call."""

    kind: Kind
    value: float = 0.0


class Faults:
    """Faults waiting to happen, first come first served; a call takes the next one that applies to it."""

    def __init__(self) -> None:
        self._waiting: deque[Fault] = deque()
        self._lock = threading.Lock()

    def fail(self, calls: int, status: int = 502) -> None:
        """The next calls are answered with this status and a web server's page."""
        self._add(Fault("status", status), calls)

    def delay(self, seconds: float, calls: int = 1) -> None:
        """The next calls wait before they are answered rightly."""
        self._add(Fault("delay", seconds), calls)

    def html(self, calls: int = 1) -> None:
        """The next calls get a maintenance page with status 200."""
        self._add(Fault("html"), calls)

    def cut(self, calls: int = 1) -> None:
        """The next calls are cut before they take effect."""
        self._add(Fault("cut"), calls)

    def cut_after_import(self, calls: int = 1) -> None:
        """The next imports take effect, then the connection is cut without an answer."""
        self._add(Fault("cut_after_import"), calls)

    def count_zero(self, calls: int = 1) -> None:
        """The next imports are ignored and answered with a count of 0."""
        self._add(Fault("count_zero"), calls)

    def ignored(self, calls: int = 1) -> None:
        """The next imports are ignored and answered with the count that would be right."""
        self._add(Fault("ignored"), calls)

    def duplicate(self, calls: int = 1) -> None:
        """The next imports are carried out twice, as by a proxy that tries again."""
        self._add(Fault("duplicate"), calls)

    def empty(self, calls: int = 1) -> None:
        """The next calls are answered with status 200 and nothing."""
        self._add(Fault("empty"), calls)

    def ban(self, seconds: float = 0.0, calls: int = 1) -> None:
        """The next calls get the page for banned addresses; 0: it does not say for how long."""
        self._add(Fault("ban", seconds), calls)

    def redirect(self, calls: int = 1) -> None:
        """The next calls are redirected to the address they had."""
        self._add(Fault("redirect"), calls)

    def error_format(self, calls: int = 1, form: Literal["xml", "csv", "text"] = "xml") -> None:
        """The next calls get their error, if any, as XML or CSV with status 200, or as bare text."""
        self._add(Fault("error_format", ("xml", "csv", "text").index(form) / 1000), calls)

    def change_dictionary(self, calls: int = 1) -> None:
        """Before the next calls somebody adds a field to the project's first instrument."""
        self._add(Fault("dictionary"), calls)

    def next(self, *, importing: bool) -> Fault | None:
        """The fault of this call, if one waits for it."""
        with self._lock:
            for fault in self._waiting:
                if importing or fault.kind not in _IMPORTS:
                    self._waiting.remove(fault)
                    return fault
        return None

    def clear(self) -> None:
        """Behaves from now on."""
        with self._lock:
            self._waiting.clear()

    def _add(self, fault: Fault, calls: int) -> None:
        with self._lock:
            self._waiting.extend([fault] * calls)
