"""Has the ledger judged and, if it is lost, built anew, before anything that needs it is started.

``fiona up`` runs it as a process of its own (`python -m fiona_dagster.operations.mending`; exit 0: the ledger
can be used), while images are received already: its last line is what a person has to know.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable

from fiona_dagster.config import UMASK, DataRoot
from fiona_dagster.errors import FionaError
from fiona_dagster.ledger.condition import why_lost
from fiona_dagster.ledger.store import unusable


def mend(root: DataRoot, say: Callable[[str], None]) -> bool:
    """Builds a lost ledger anew; links below ``site/raw`` are written by processing, or by `fiona rebuild`.

    Args:
        root: the data root.
        say: takes lines for people.

    Returns:
        Whether the ledger can be used.
    """
    try:
        why = why_lost(root, thorough=True)
        if not why:
            return True
        from fiona_dagster.operations.rebuild import rebuild

        say(f"{root.ledger_file}: {why}; it is built anew from journals and records")
        result = rebuild(root, trees=False)
    except sqlite3.DatabaseError as error:
        say(str(unusable(root.ledger_file, error) or f"{root.ledger_file}: can't be read ({error})"))
        return False
    except (FionaError, OSError) as error:
        say(" ".join(str(error).split()))
        return False
    for problem in result.problems:
        say(problem)
    if result.kept:
        say(f"the old ledger is {result.kept}")
    say(f"the ledger knows {result.studies} studies again, {result.records} by their records")
    return True


def main() -> int:
    """Works on the data root of the environment."""
    os.umask(UMASK)
    return 0 if mend(DataRoot.from_environment(), lambda line: print(line, flush=True)) else 1  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
