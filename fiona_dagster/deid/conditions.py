"""What depends on other attributes of an object, so that a copy is as conformant as its original.

An attribute whose condition (Type 1C and the like) is not met any more, since what it depends on went,
goes too. Belongs here: such pairs. Stays out: Types by themselves (``profile.resolve``).
"""

from __future__ import annotations

from fiona_dagster.deid.elements import Element

COMMITTEE_NAME, COMMITTEE_NUMBER = 0x00120081, 0x00120082
"""Of the ethics committee of a trial: the name is there if the approval number is (PS3.3 C.7.1.3)."""
REFERENCED_SERIES, OTHER_STUDIES = 0x00081115, 0x00081200
"""The Common Instance Reference Module lists what the rest of the object refers to (PS3.3 C.12.2)."""
REQUEST_ATTRIBUTES = 0x00400275
DEPENDENT = frozenset((COMMITTEE_NAME, COMMITTEE_NUMBER, REFERENCED_SERIES, OTHER_STUDIES))
NEVER_EMPTY = frozenset((REQUEST_ATTRIBUTES,))
"""Optional sequences that have one or more items if they are there."""
_REFERENCED_INSTANCE = 0x00081155


def unmet(before: list[Element], after: list[Element]) -> frozenset[int]:
    """Top-level attributes of a treated object whose condition is not met any more.

    Args:
        before: the original.
        after: what stays of it.
    """
    there, left = {e.tag: e for e in before}, {e.tag: e for e in after}
    gone = set()
    name = left.get(COMMITTEE_NAME)
    if name and COMMITTEE_NUMBER in there.keys() - left.keys() and name.value != there[COMMITTEE_NAME].value:
        gone.add(COMMITTEE_NAME)  # a stand-in: no option keeps it
    lists = left.keys() & {REFERENCED_SERIES, OTHER_STUDIES}
    if lists and _refers(before, True) and not _refers(after, False):
        gone |= lists
    return frozenset(gone)


def _refers(elements: list[Element], unread: bool) -> bool:
    """Whether something in the sequences refers to instances; ``unread``: also what nobody looked into."""
    return any(
        (e.vr == "SQ" and e.items is None and unread) or any(_names(item) for item in e.items or ())
        for e in elements
        if e.tag not in (REFERENCED_SERIES, OTHER_STUDIES)
    )


def _names(item: list[Element]) -> bool:
    return any(e.tag == _REFERENCED_INSTANCE or any(map(_names, e.items or ())) for e in item)
