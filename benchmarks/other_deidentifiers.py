"""Other de-identifiers, one a process: run by the interpreter of a throw-away environment, without ours.

``python other_deidentifiers.py TOOL TABLE OUT FILE...``; TABLE is our table of attributes, for ``pydicom``.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import sys
from pathlib import Path
from typing import Any


def dicom_anonymizer(files: list[Path], out: Path, _table: Path) -> None:
    """Its defaults: PS3.15 basic profile, private attributes removed."""
    from dicomanonymizer.simpledicomanonymizer import anonymize_dicom_file  # type: ignore[import-not-found]

    for path in files:
        anonymize_dicom_file(str(path), str(out / path.name))


def dicognito(files: list[Path], out: Path, _table: Path) -> None:
    """Its defaults: identifiers replaced consistently."""
    import pydicom
    from dicognito.anonymizer import Anonymizer  # type: ignore[import-not-found]

    anonymizer = Anonymizer()
    for path in files:
        with pydicom.dcmread(path) as data_set:
            anonymizer.anonymize(data_set)
            data_set.save_as(out / path.name)


def deid(files: list[Path], out: Path, _table: Path) -> None:
    """Its default recipe."""
    from deid.dicom import replace_identifiers  # type: ignore[import-not-found]

    replace_identifiers([str(path) for path in files], save=True, output_folder=str(out), remove_private=True)


def pydicom(files: list[Path], out: Path, table: Path) -> None:
    """A plain script over our table: what one would write by hand."""
    import pydicom as library
    from pydicom.uid import UID

    rows = csv.DictReader(table.read_text("utf-8").splitlines())
    actions = {int(r["tag"], 16): r["basic"] for r in rows if "x" not in r["tag"] and r["tag"] != "private"}

    def uid(original: str) -> str:
        return f"2.25.{int.from_bytes(hmac.digest(b'key', original.encode(), hashlib.sha256)[:16], 'big')}"

    def treat(data_set: Any, element: Any) -> None:
        action = actions.get(int(element.tag), "")[-1:]
        if not action:
            return
        if action == "X":
            del data_set[element.tag]
        elif action == "U" and element.VR == "UI":
            many = isinstance(element.value, library.multival.MultiValue)
            element.value = [uid(value) for value in element.value] if many else UID(uid(element.value or ""))
        elif element.VR != "SQ":
            element.value = {"DA": "19000101", "TM": "000000", "DT": "19000101"}.get(element.VR) or (
                "REMOVED" if action == "D" and element.VR in ("LO", "SH", "PN", "ST", "LT", "UT") else None
            )

    for path in files:
        data_set = library.dcmread(path)
        data_set.remove_private_tags()
        data_set.walk(treat)
        data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
        data_set.save_as(out / path.name)


TOOLS = {
    "dicom-anonymizer": dicom_anonymizer,
    "dicognito": dicognito,
    "deid": deid,
    "pydicom": pydicom,
}

if __name__ == "__main__":
    tool, attributes, folder, *names = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    TOOLS[tool]([Path(name) for name in names], Path(folder), Path(attributes))
