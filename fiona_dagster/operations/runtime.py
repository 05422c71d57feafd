"""What a running ``fiona up`` writes for others to find: its ports, process ids, and how it does."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot

log = logging.getLogger("fiona.up")


def runtime_file(root: DataRoot) -> Path:
    """Where a running supervisor writes its ports and process ids."""
    return root.dagster_home / "fiona-up.json"


class Notice:
    """The file ``DAGSTER_HOME/fiona-up.json``, written anew whenever it would say something else.

    A disk that is full takes nothing away from what runs: it is said once, and tried again at each look.

    Args:
        root: the data root.
    """

    def __init__(self, root: DataRoot) -> None:
        self._path = runtime_file(root)
        self._written = ""
        self._failed = False

    def write(self, document: dict[str, Any]) -> None:
        """Writes ``document`` if it is not what stands there."""
        text = json.dumps(document, indent=1)
        if text == self._written:
            return
        part = self._path.with_name(f".{self._path.name}.part")
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(self._path)
        except OSError as error:
            if not self._failed:
                log.error("%s can't be written (%s); make room", self._path, error.strerror)  # noqa: TRY400
            self._failed = True
            return
        self._written, self._failed = text, False

    def remove(self) -> None:
        """Nothing runs any more."""
        self._path.unlink(missing_ok=True)
