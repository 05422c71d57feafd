"""Private elements that the record names, found by their creator (PS3.5 section 7.8.1).

The original reads them by number, as if every creator had block 10. Here a creator's block is looked up; the
element counts under the original's number, whatever its block. What stands in another creator's block is not
meant.
"""

from __future__ import annotations

import functools

from pydicom.datadict import private_dictionary_VR

CSA_IMAGE, CSA_SERIES = 0x00291010, 0x00291020
PROTOCOL, PHASE_POSITIVE = 0x00211019, 0x0021111C
CSA_TAGS = {
    0x00291010: CSA_IMAGE,
    0x00291110: CSA_IMAGE,
    0x00291210: CSA_IMAGE,
    0x00291020: CSA_SERIES,
    0x00291120: CSA_SERIES,
    0x00291220: CSA_SERIES,
}
"""Where the original looks for CSA headers; without a creator only what begins like one counts."""

NAMED: dict[tuple[int, str], dict[int, int]] = {
    (0x0019, "GEMS_ACQU_01"): {0x9C: 0x0019109C, 0x5A: 0x0019105A, 0xBB: 0x001910BB, 0xB3: 0x001910B3},
    (0x0021, "GEMS_RELA_01"): {0x4F: 0x0021104F},
    (0x0043, "GEMS_PARM_01"): {0x39: 0x00431039},
    (0x0019, "SIEMENS MR HEADER"): {0x0C: 0x0019100C, 0x0D: 0x0019100D, 0x0E: 0x0019100E},
    (0x0051, "SIEMENS MR HEADER"): {0x0A: 0x0051100A, 0x0F: 0x0051100F},
    (0x2001, "Philips Imaging DD 001"): {0x20: 0x20011020, 0x03: 0x20011003},
    (0x0065, "Image Private Header"): {0x0A: 0x0065100A},
    (0x0029, "SIEMENS CSA HEADER"): {0x10: CSA_IMAGE, 0x20: CSA_SERIES},
    (0x0021, "SIEMENS MR SDS 01"): {0x19: PROTOCOL},
    (0x0021, "SIEMENS MR SDI 02"): {0x1C: PHASE_POSITIVE},
}
"""Group and creator -> last byte of the element number -> the tag that it counts as."""

CREATORS = frozenset(group << 16 | block for group, _ in NAMED for block in range(0x10, 0x100))
"""Tags at which creators of these groups may stand."""
_PLAIN = {
    tag: (group, creator, low)
    for (group, creator), lows in NAMED.items()
    for low, tag in lows.items()
    if tag not in (CSA_IMAGE, CSA_SERIES, PROTOCOL, PHASE_POSITIVE)
}
PLAIN_TAGS = frozenset(_PLAIN)
VENDOR = frozenset((CSA_IMAGE, CSA_SERIES, PROTOCOL, PHASE_POSITIVE))
"""Tags at which headers of Siemens' own stand."""


@functools.lru_cache(maxsize=1024)
def aliases(tag: int, creator: str) -> dict[int, int]:
    """Tag in the file -> tag that it counts as, for the block that a creator element at ``tag`` reserves."""
    lows = NAMED.get((tag >> 16, creator))
    if lows is None:
        return {}
    block = tag & 0xFFFF0000 | (tag & 0xFF) << 8
    return {block | low: counts for low, counts in lows.items()}


def settle(elements: dict[int, tuple[str, bytes]], creators: dict[int, str]) -> None:
    """Puts named private elements under the numbers that they count as.

    Args:
        elements: of the top level; changed in place.
        creators: tag of each creator element -> its name.
    """
    moves = _moves(frozenset(creators.items()))
    if not moves:
        return
    found = [(tag, elements[there], creator) for tag, there, creator in moves if there in elements]
    for tag, _, _ in moves:
        elements.pop(tag, None)
    for tag, (vr, data), creator in found:
        elements[tag] = (vr if vr not in ("", "UN") else _known_vr(tag, creator), data)


@functools.lru_cache(maxsize=1024)
def _moves(creators: frozenset[tuple[int, str]]) -> tuple[tuple[int, int, str], ...]:
    """(tag, where it stands in the file or 0, creator) for what is not where the original looks for it."""
    owners = dict(creators)
    moves = []
    for tag, (group, creator, low) in _PLAIN.items():
        owner = owners.get(group << 16 | tag >> 8 & 0xFF)
        here = sorted(at for at, name in creators if at >> 16 == group and name == creator)
        if owner != creator and (here or owner is not None):
            moves.append((tag, group << 16 | (here[0] & 0xFF) << 8 | low if here else 0, creator))
    return tuple(moves)


def _known_vr(tag: int, creator: str) -> str:
    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"
