"""``python -m benchmarks``: all benchmarks, one after the other."""

from __future__ import annotations

import sys

from benchmarks import receive

if __name__ == "__main__":
    sys.exit(receive.main(sys.argv[1:]))
