"""Form fields of a call: single values, flags, and lists in both notations that servers take."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fiona_dagster.redcap.sandbox.formats import DELIMITERS, ApiError

FORMATS = ("json", "csv", "xml")


class Params:
    """Reads the form fields of one call."""

    def __init__(self, form: Mapping[str, str]) -> None:
        self._form = form

    def get(self, name: str, default: str = "") -> str:
        """One value; an empty one counts as absent."""
        return self._form.get(name) or default

    def has(self, name: str) -> bool:
        """Whether it was sent at all."""
        return name in self._form

    def flag(self, name: str) -> bool:
        """Whether it is ``true`` or ``1``."""
        return self.get(name).lower() in ("true", "1")

    def list(self, name: str) -> list[str]:
        """``name[0]=a&name[1]=b``, or ``name=a,b``."""
        pattern = re.compile(re.escape(name) + r"\[[^\]]*\]")
        indexed = [value for key, value in self._form.items() if pattern.fullmatch(key)]
        plain = [part.strip() for part in self.get(name).split(",")]
        return [value for value in indexed or plain if value]

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """One of some words.

        Raises:
            ApiError: it is something else.
        """
        value = self.get(name, default)
        if value not in allowed:
            raise ApiError(f'The value of the parameter "{name}" is not valid')
        return value

    @property
    def format(self) -> str:
        """Format of the data; REDCap's default is xml."""
        return self.choice("format", FORMATS, "xml")

    @property
    def return_format(self) -> str:
        """Format of errors and status answers: that of the data unless said otherwise."""
        for name in ("returnFormat", "format"):
            if self.get(name) in FORMATS:
                return self.get(name)
        return "xml"

    @property
    def delimiter(self) -> str:
        """Character between CSV cells."""
        self.choice("csvDelimiter", tuple(DELIMITERS), ",")
        return DELIMITERS[self.get("csvDelimiter", ",")]
