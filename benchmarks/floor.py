"""What the disk itself allows: the writes, names and flushes of a reception at ``full``, and nothing else.

``python -m benchmarks.floor FOLDER FILE...`` loads all files, says ``ready``, waits for a line, stores the
files one after the other as the receiver stores objects, and says how many, and how many seconds of processor
time that took. Nothing comes from a network, nothing is read or judged, nobody is answered.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from fiona_dagster.landing.receipt import Receipt, encode_line, now
from fiona_dagster.landing.workshop import Workshop
from receiver.stream import BUFFER


def prepare(folder: Path) -> None:
    """Makes the folders that all processes share."""
    for name in ("workshops", "study", "journals"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def _line(name: str, size: int) -> bytes:
    uid = "1.2.826.0.1.3680043.10.1513.0.2000"
    path = f"site/archive/scp_{uid}/{name}"
    return encode_line(
        Receipt(now(), "stored", uid, f"{uid}.1", uid, uid, uid, path, size, "BENCH", "ANY-SCP", "127.0.0.1")
    )


def main(folder: Path, names: list[str]) -> None:
    """See the module."""
    loaded = [(Path(name).name, Path(name).read_bytes()) for name in names]
    shop = Workshop(folder / "workshops")
    study = os.open(folder / "study", os.O_RDONLY | os.O_DIRECTORY)
    journal = os.open(folder / "journals" / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    begin = time.process_time()
    for name, data in loaded:
        view = memoryview(data)
        new = shop.new_file(nameless=True)
        for at in range(0, len(data), BUFFER):
            new.write([view[at : at + BUFFER]])
        new.commit()
        new.appear(study, name)
        os.write(journal, _line(name, len(data)))
        os.fdatasync(journal)
        os.fsync(study)
    sys.stdout.write(f"{len(loaded)} {time.process_time() - begin}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    shop.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
