"""The data dictionary and the registered UIDs (PS3.6), read from pydicom's tables without pydicom itself.

Importing pydicom takes half a second and, with NumPy, more memory than a whole de-identification may use; its
two tables take ten milliseconds. Stays out: values and character sets (pydicom's, imported where needed).
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

Attribute = tuple[str, str, str, str, str]
"""VR (perhaps several), VM, name, "Retired" or "", keyword."""


def _table(name: str) -> ModuleType:
    loaded = sys.modules.get(f"pydicom.{name}")
    if loaded is not None:
        return loaded
    package = find_spec("pydicom")
    if package is None or package.origin is None:
        raise ImportError("pydicom is not installed; make env puts it into the environment")
    spec = spec_from_file_location(f"_pydicom{name}", Path(package.origin).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"pydicom has no {name}.py; make env puts the right version into the environment")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_attributes = _table("_dicom_dict")
ATTRIBUTES: dict[int, Attribute] = _attributes.DicomDictionary
UIDS: dict[str, tuple[str, ...]] = _table("_uid_dict").UID_dictionary
"""Registered UIDs: name, type, ..."""


def _mask(pattern: str) -> tuple[int, int]:
    """Bits that count, and what they must be, of a tag with x in it (``60xx0010``)."""
    return int("".join("0" if c == "x" else "f" for c in pattern), 16), int(pattern.replace("x", "0"), 16)


_REPEATING: dict[int, dict[int, Attribute]] = {}
"""Bits that count -> what they are -> attribute."""
for _pattern, _entry in _attributes.RepeatersDictionary.items():
    _bits, _wanted = _mask(_pattern)
    _REPEATING.setdefault(_bits, {})[_wanted] = _entry


@lru_cache(maxsize=8192)
def dictionary_vr(tag: int) -> str:
    """VR of the data dictionary (the first of several), "" for an attribute that it does not know."""
    entry = ATTRIBUTES.get(tag)
    if entry is None and not tag >> 16 & 1:  # repeating groups are even ones (PS3.5 7.6)
        entry = next((found[tag & bits] for bits, found in _REPEATING.items() if tag & bits in found), None)
    return entry[0][:2] if entry else ""
