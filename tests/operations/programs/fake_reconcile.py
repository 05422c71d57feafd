"""Counts how often it ran; fails while a file says so."""

from __future__ import annotations

import os
import sys
from pathlib import Path

data = Path(os.environ["FIONA_DATA"])
with (data / "reconciled").open("a") as log:
    log.write("x")
sys.exit(3 if (data / "reconcile-fails").exists() else 0)
