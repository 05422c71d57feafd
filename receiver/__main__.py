"""``python -m receiver``: the same as ``fiona receive``."""

from __future__ import annotations

import sys

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import FionaError
from receiver.run import run


def main() -> int:
    """Runs the receiver on the data root of the environment; one line and exit code 2 when it can't start."""
    try:
        return run(DataRoot.from_environment())
    except FionaError as error:
        sys.stderr.write("fiona: " + " ".join(str(error).split()) + "\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
