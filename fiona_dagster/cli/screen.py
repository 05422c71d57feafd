"""What commands print for people: no identifier is cut, and no text is taken for markup."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_WIDEST = 10_000
"""Columns; longer lines are folded even in a file."""


class Screen(Console):
    """A console for stdout.

    On a terminal, cells that are too long are folded, never cut: ``fiona conflicts accept`` needs whole ids.
    In a file or pipe a row is one line, for ``grep``, unless COLUMNS says how wide.
    Texts are printed as they are, since brackets and colons come from titles of senders and names of files.
    """

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False)

    def print(self, *objects: Any, **more: Any) -> None:
        """As of :class:`rich.console.Console`."""
        free = not self.is_terminal and not os.environ.get("COLUMNS")
        for each in objects:
            if isinstance(each, Table):
                for column in each.columns:
                    column.overflow = "fold"
                first = each.columns[0]  # what other commands are called with
                first.no_wrap = max((len(str(cell)) for cell in first.cells), default=0) <= self.width // 2
                if free:
                    self.width = _WIDEST
                    self.width = Measurement.get(self, self.options, each).maximum
            elif free:
                more["soft_wrap"] = True
        super().print(*objects, **more)
