"""``python -m benchmarks``: all benchmarks, one after the other."""

from __future__ import annotations

import sys

from benchmarks import headers, organise, package, poll, receive, send, sftp

if __name__ == "__main__":
    if sys.argv[1:]:  # options are those of the benchmark of reception
        sys.exit(receive.main(sys.argv[1:]))
    sys.exit(max(each.main([]) for each in (headers, organise, receive, send, package, poll, sftp)))
