"""``python -m benchmarks``: all benchmarks, one after the other."""

from __future__ import annotations

import sys

from benchmarks import package, receive

if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(receive.main(arguments) or (0 if arguments else package.main([])))
