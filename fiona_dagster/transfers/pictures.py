"""Small pictures of series for a package's index page: from verified pixels, the same on every machine.

Belongs here: one frame of one file as a PNG (ISO/IEC 15948). Stays out: which files and where they are shown.
Only whole numbers and comparisons make a picture, and its PNG holds stored blocks: no rounding of a processor
and no version of a compressor can make it differ. Compressed pixels are shown only where pydicom itself
decodes them (RLE): whether further decoders are installed must not change a package.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any

from fiona_dagster.dicom.opened import from_copy
from fiona_dagster.errors import NotVerified
from fiona_dagster.transfers.looked import LookedAt
from fiona_dagster.transfers.writing import Blocks, changed

SIDE = 160
"""Largest width and height of a picture."""
FRAME_LIMIT = 128 << 20
"""Bytes of the largest frame that is decoded."""
_OPEN = frozenset(
    (
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.5",
    )
)
"""Transfer syntaxes that numpy alone can show: native ones and RLE Lossless (PS3.5 annexes A and G)."""


def picture(path: Path, digest: str) -> bytes | str:
    """A small picture of the middle frame of a file.

    Args:
        path: a de-identified file.
        digest: its SHA-256 in the verification record; nothing else is shown.

    Returns:
        A PNG, or why there is none.

    Raises:
        NotVerified: the file differs from its record or is gone.
        CopyUnavailable: the disk does not give it.
    """
    with from_copy(), path.open("rb") as stream:
        return _picture(stream, lambda: _require(stream, digest))


def glimpse(path: Path) -> tuple[bytes | str, Blocks]:
    """A small picture as :func:`picture` makes it, of a large file that is compared when it is packed.

    Args:
        path: a de-identified file.

    Returns:
        A PNG, or why there is none; and what was looked at, to be compared with what is packed.

    Raises:
        NotVerified: the file changes, or is gone.
        CopyUnavailable: the disk does not give it.
    """
    with from_copy(), LookedAt(path) as looked_at, BufferedReader(looked_at) as stream:
        return _picture(stream, lambda: None), looked_at.blocks


def _picture(stream: BufferedReader[Any], require: Callable[[], None]) -> bytes | str:
    from pydicom import config as pydicom_config
    from pydicom import dcmread
    from pydicom.pixels.utils import pixel_array

    # pydicom quotes values in warnings and errors; these must not travel on.
    try:
        with warnings.catch_warnings(), pydicom_config.disable_value_validation():
            warnings.simplefilter("ignore")
            header = dcmread(stream, stop_before_pixels=True, specific_tags=_WANTED)
            syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
            refused = _why_not(header, syntax)
            if refused:  # one of a few texts: nothing is shown that could be another's
                return refused
            require()
            frames = max(1, int(header.get("NumberOfFrames") or 1))
            stream.seek(0)
            frame = pixel_array(stream, index=frames // 2, raw=True)
            kind = str(header.get("PhotometricInterpretation", ""))
            return png(_shown(frame, kind))
    except (OSError, NotVerified):
        raise
    except Exception:  # noqa: BLE001 - pydicom raises anything on what it can't decode
        return "pixels that can't be decoded"


def _require(stream: BufferedReader, digest: str) -> None:
    stream.seek(0)
    if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
        raise changed()


_WANTED = [
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames", "PhotometricInterpretation",
]  # fmt: skip


def _why_not(header: Any, syntax: str) -> str:
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    if not rows or not columns:
        return "no pixels"
    if syntax not in _OPEN:
        return "compressed"
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return "colours from a table"
    samples, bits = int(header.get("SamplesPerPixel") or 1), int(header.get("BitsAllocated") or 16)
    size = rows * columns * samples * max(bits, 8) // 8
    return "too large for a picture" if size > FRAME_LIMIT else ""


def _shown(frame: Any, kind: str) -> Any:
    """Rows x columns (x 3) of 0 to 255; grey values between the 1st and 99th percentile."""
    import numpy as np

    if frame.ndim == 3 and not (kind == "RGB" and frame.shape[2] == 3):
        frame = frame[:, :, 0]  # of luminance and chrominance the first is the picture
    step = max(1, max(frame.shape[:2]) // (SIDE * 4))
    frame = frame[::step, ::step]
    if frame.ndim == 3:
        return _reduced(frame.astype(np.int64) >> (8 * (frame.dtype.itemsize - 1)))
    if frame.dtype.kind == "f":
        frame = np.nan_to_num(frame.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = frame.min(), frame.max()
        frame = np.floor((frame - low) / ((high - low) or 1.0) * 65535)
    frame = frame.astype(np.int64)
    ordered = np.sort(frame, axis=None)
    low, high = int(ordered[ordered.size // 100]), int(ordered[ordered.size - 1 - ordered.size // 100])
    grey = (np.clip(frame, low, high) - low) * 255 // max(1, high - low)
    return _reduced(255 - grey if kind == "MONOCHROME1" else grey)


def _reduced(frame: Any) -> Any:
    """Means of square blocks, so that no side is longer than :data:`SIDE`."""
    import numpy as np

    block = -(-max(frame.shape[:2]) // SIDE)
    if block > 1 and min(frame.shape[:2]) >= block:
        rows, columns = frame.shape[0] // block, frame.shape[1] // block
        frame = frame[: rows * block, : columns * block]
        blocks = frame.reshape(rows, block, columns, block, *frame.shape[2:])
        frame = blocks.sum(axis=(1, 3)) // (block * block)
    return frame.astype(np.uint8)


def png(pixels: Any) -> bytes:
    """Rows x columns of grey, or rows x columns x 3 of RGB, 8 bits, as a PNG without compression."""
    rows, columns = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    lines = b"".join(b"\0" + pixels[row].tobytes() for row in range(rows))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, colour, 0, 0, 0)),
        (b"IDAT", b"\x78\x01" + stored_blocks(lines) + struct.pack(">I", zlib.adler32(lines))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def stored_blocks(data: bytes, *, last: bool = True) -> bytes:
    """A deflate stream (RFC 1951, 3.2.4) that compresses nothing and is therefore always the same."""
    pieces = [data[start : start + 65535] for start in range(0, len(data), 65535)] or [b""]
    return b"".join(
        struct.pack("<BHH", int(last and index == len(pieces) - 1), len(piece), len(piece) ^ 0xFFFF) + piece
        for index, piece in enumerate(pieces)
    )
