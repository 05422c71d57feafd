"""The first part of an archived file's name."""

from __future__ import annotations

import re
from functools import lru_cache

from fiona_dagster.dicom import StorageUids

_MODALITY = re.compile(r"[A-Z0-9]{1,16}")
_PREFIX_BY_CLASS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.3": "US",
    "1.2.840.10008.5.1.4.1.1.6": "US",
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.12": "XA",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
    "1.2.840.10008.5.1.4.1.1.66": "SEG",
    "1.2.840.10008.5.1.4.1.1.88": "SR",
    "1.2.840.10008.5.1.4.1.1.104": "DOC",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.481": "RT",
}


def archive_prefix(uids: StorageUids) -> str:
    """The first part of an archived file's name: the modality, or what the SOP class suggests, or ``OT``."""
    return _prefix_of(uids.modality, uids.sop_class)


@lru_cache(maxsize=256)
def _prefix_of(modality: str, sop_class: str) -> str:
    if _MODALITY.fullmatch(modality):
        return modality
    parts = sop_class.split(".")
    for length in range(len(parts), 8, -1):
        prefix = _PREFIX_BY_CLASS.get(".".join(parts[:length]))
        if prefix:
            return prefix
    return "OT"
