"""Diffusion and duration of classic MR objects, as vendors say them, under the tags of the standard.

The standard's own elements (PS3.3 sections C.8.13.5.9 and C.8.13.1) count where they are there. Else:

* Siemens: (0019,xx0C) B_value, (0019,xx0D) DiffusionDirectionality, (0019,xx0E) DiffusionGradientDirection of
  *SIEMENS MR HEADER*, also in what XA software writes for older readers.
* GE: the first of (0043,xx39) of *GEMS_PARM_01*, of echo-planar images; 1,000,000,000 is added to it by some
  releases. Other sequences use the same element for something else.
* Philips: (2001,xx03) diffusion b-factor of *Philips Imaging DD 001*.
* United Imaging: (0065,xx0A) of *Image Private Header*, the prescribed value.

Sources: the vendors' DICOM conformance statements; pydicom's private dictionary; dcm2niix
(``nii_dicom.cpp``).
"""

from __future__ import annotations

import struct

Stored = tuple[str, bytes]

B_VALUE, DIRECTIONALITY, ORIENTATION = 0x00189087, 0x00189075, 0x00189089
DURATION, LENGTH = 0x00189073, 0x0051100A
_MANUFACTURER, _SCANNING_SEQUENCE = 0x00080070, 0x00180020
_GE = 0x00431039
_GE_OFFSET, _GE_HIGHEST = 1_000_000_000, 100_000

AS_THEY_ARE = {
    0x0019100C: (B_VALUE, "IS"),
    0x0019100D: (DIRECTIONALITY, "CS"),
    0x0019100E: (ORIENTATION, "FD"),
    0x20011003: (B_VALUE, "FL"),
    0x0065100A: (B_VALUE, "FD"),
}
"""Private element, under the number that it counts as -> element of the standard, and the VR that it has."""
SOURCES = frozenset((*AS_THEY_ARE, _GE, DIRECTIONALITY, ORIENTATION, DURATION, _MANUFACTURER))
"""What has to be kept of a header for this."""


def add(elements: dict[int, Stored], *, big: bool) -> None:
    """Adds what vendors say; nothing is overwritten.

    Args:
        elements: of the top level, private ones under the numbers that they count as; changed in place.
        big: big endian.
    """
    for source, (tag, known) in AS_THEY_ARE.items():
        if source in elements and tag not in elements:
            vr, data = elements[source]
            if data:
                elements[tag] = (vr if vr not in ("", "UN") else known, data)
    if _GE in elements and B_VALUE not in elements:
        value = _ge(elements[_GE][1], elements.get(_SCANNING_SEQUENCE, ("", b""))[1])
        if value is not None:
            elements[B_VALUE] = ("IS", str(value).encode("ascii"))
    if DURATION in elements and LENGTH not in elements and _is_siemens(elements):
        length = _length(elements[DURATION][1], big=big)
        if length:
            elements[LENGTH] = ("SH", length.encode("ascii"))


def _ge(data: bytes, sequence: bytes) -> int | None:
    first = data.partition(b"\\")[0].strip(b" \0")
    if b"EP" not in [part.strip(b" \0") for part in sequence.split(b"\\")] or not first.isdigit():
        return None
    value = int(first[:12])
    value -= _GE_OFFSET if value >= _GE_OFFSET else 0
    return value if value <= _GE_HIGHEST else None


def _is_siemens(elements: dict[int, Stored]) -> bool:
    return elements.get(_MANUFACTURER, ("", b""))[1].strip().upper().startswith(b"SIEMENS")


def _length(data: bytes, *, big: bool) -> str:
    """AcquisitionDuration as (0051,xx0A) spells it: ``TA 05.00`` seconds, from a minute on ``TA 03:49``."""
    if len(data) != 8:
        return ""
    seconds = struct.unpack(">d" if big else "<d", data)[0]
    if not 0 < seconds < 86_400:
        return ""
    if round(seconds, 2) < 60:
        return f"TA {seconds:05.2f}"
    return f"TA {round(seconds) // 60:02}:{round(seconds) % 60:02}"
