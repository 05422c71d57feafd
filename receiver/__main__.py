"""``python -m receiver``: the same as ``fiona receive``."""

from __future__ import annotations

import os
import sys

from fiona_dagster.config import UMASK, DataRoot
from fiona_dagster.config.apart import SettingsApart
from fiona_dagster.errors import FionaError


def main() -> int:
    """Runs the receiver on the data root of the environment; one line and exit code 2 when it can't start."""
    os.umask(UMASK)
    root = DataRoot.from_environment()
    settings = SettingsApart(root)  # on another processor, while this one imports the rest
    from receiver.run import run

    try:
        return run(root, settings)
    except FionaError as error:
        sys.stderr.write("fiona: " + " ".join(str(error).split()) + "\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
