"""Objects with something to find in every row of PS3.15's tables: attributes, private ones, SR concepts."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.deid import phantoms
from tests.deid.phantoms import EXPLICIT, Canaries, vr_of

KEPT_SEQUENCES = ("AnatomicRegionSequence", "ReferencedInstanceSequence", "PurposeOfReferenceCodeSequence")
"""Sequences that stay and are cleaned inside: three levels."""


@dataclass(frozen=True)
class Row:
    """A single tag of table E.1-1.

    Attributes:
        options: option -> its cell (K or C).
    """

    tag: int
    basic: str
    options: dict[str, str]


def table() -> list[Row]:
    """The rows that can stand in a data set, without those that every object needs as they are."""
    content = (files("fiona_dagster.deid") / "data" / "attributes.csv").read_text("utf-8")
    needed = (0x00080018, 0x0020000D, 0x0020000E)
    return [
        Row(int(r["tag"], 16), r["basic"], dict(part.split("=") for part in r["options"].split()))
        for r in csv.DictReader(content.splitlines())
        if "x" not in r["tag"]
        and r["tag"] != "private"
        and int(r["tag"], 16) not in needed
        and int(r["tag"][:4], 16) not in (0, 2, 4, 0xFFFC)
    ]


def concepts() -> list[dict[str, str]]:
    """The rows of table E.3.4-1."""
    content = (files("fiona_dagster.deid") / "data" / "concepts.csv").read_text("utf-8")
    return list(csv.DictReader(content.splitlines()))


def plant(into: Dataset, canaries: Canaries, rows: list[Row], where: str = "", words: str = "") -> None:
    """Puts a canary into every attribute that is no sequence.

    Args:
        into: the data set or item.
        canaries: gives and remembers them, by ``where`` and tag.
        rows: the attributes.
        where: prefix of the places.
        words: put before the canary of free text, for what must be cleaned out of it.
    """
    for row in rows:
        vr = vr_of(row.tag)
        if vr == "SQ":
            continue
        vr = "LO" if vr == "UN" else vr
        place = f"{where}{row.tag:08x}"
        value = canaries.value(vr, place)
        if words and vr in ("LO", "ST", "LT", "UT", "UC"):
            value = f"{words} {value}"
        into[row.tag] = DataElement(row.tag, vr, value)


def flat(canaries: Canaries, syntax: str = EXPLICIT, words: str = "") -> Dataset:
    """An image with every row at the top level."""
    image = phantoms.image(1, syntax)
    name, number, born = image.PatientName, image.PatientID, image.PatientBirthDate
    plant(image, canaries, table(), words=words)
    if words:  # the person whose name stands in the text
        image.PatientName, image.PatientID, image.PatientBirthDate = name, number, born
    return image


def rest(into: Dataset, canaries: Canaries, where: str) -> None:
    """Puts into a data set or item the rows that are no single attribute with a value, and what has no row.

    Sequences, curves, overlays and private blocks; commands, file meta and directories, which belong to no
    data set. Numbers have no canary; see :func:`standing`.
    """
    content = (files("fiona_dagster.deid") / "data" / "attributes.csv").read_text("utf-8")
    rows = [row["tag"] for row in csv.DictReader(content.splitlines())]
    for name in rows:
        if name[0] == "5" and "x" in name:
            for tag in (0x50000022, 0x50003000, 0x501E2500, 0x501E2000):
                into.add_new(tag, vr := vr_of(tag), canaries.value(vr, f"{where}{tag:08x}"))
        elif "x" in name:
            for group in ("6000", "6002", "601e"):
                tag = int(group + name[4:], 16)
                into.add_new(tag, vr := "OW" if name.endswith("3000") else "LT", canaries.value(vr, where))
                canaries.planted[f"{where}{tag:08x}"] = canaries.planted.pop(where)
        elif name != "private" and vr_of(int(name, 16)) == "SQ":
            into.add_new(int(name, 16), "SQ", Sequence([phantoms.item(canaries, f"{where}{name}")]))
    into.add_new(0x00041511, "UI", canaries.value("UI", f"{where}00041511"))
    into.add_new(0x00041130, "CS", canaries.value("CS", f"{where}00041130"))
    into.add_new(0x00750010, "LO", canaries.value("LO", f"{where}creator"))
    into.add_new(0x00751001, "UN", canaries.value("UN", f"{where}private"))
    into.add_new(0x00751002, "SQ", Sequence([phantoms.item(canaries, f"{where}private")]))


def standing(into: Dataset, kept: Dataset) -> set[str]:
    """What table E.1-1 removes and is there, and numbers that it replaces and are as they were planted."""
    left = {f"{row.tag:08x}" for row in table() if row.basic == "X" and row.tag in kept}
    for row in table():
        number = row.tag in kept and vr_of(row.tag) in ("US", "SS", "UL", "SL", "FD", "FL")
        if number and kept[row.tag].value == into[row.tag].value:
            left.add(f"{row.tag:08x}")
    return left | {
        f"{e.tag:08x}"
        for e in kept
        if e.tag.is_private or e.tag.group < 8 or e.tag.group >> 8 in (0x50, 0x60)
    }


def nested(canaries: Canaries, syntax: str = EXPLICIT) -> Dataset:
    """An image with every row at each of three levels of sequences that stay."""
    image = phantoms.image(1, syntax)
    into: Dataset = image
    for keyword in KEPT_SEQUENCES:
        item = Dataset()
        plant(item, canaries, table(), f"{keyword}.")
        rest(item, canaries, f"{keyword}.")
        setattr(into, keyword, Sequence([item]))
        into = item
    return image


def with_private(canaries: Canaries, rows: list[dict[str, str]]) -> Dataset:
    """An image with private attributes, a block for each creator of a group, and one of a creator not listed.

    Args:
        canaries: gives and remembers them, by creator and tag.
        rows: of table E.3.10-1: group, element (``xx`` is the block), private_creator, vr.
    """
    image = phantoms.image()
    blocks: dict[tuple[int, str], int] = {}
    for row in [*rows, *({**row, "private_creator": "NOBODY KNOWS IT"} for row in rows[:3])]:
        group, creator = int(row["group"], 16), row["private_creator"]
        block = blocks.get((group, creator))
        if block is None:
            block = blocks[group, creator] = 0x10 + sum(known == group for known, _ in blocks)
            image.add_new((group, block), "LO", creator)
        vr = row["vr"][:2] or "UN"
        if vr == "SQ":
            continue
        tag = group << 16 | block << 8 | int(row["element"].lower().replace("xx", ""), 16)
        image.add_new(tag, vr, canaries.value(vr, f"{creator}|{tag:08x}"))
    return image


def report(canaries: Canaries) -> Dataset:
    """A structured report with an item for each row of table E.3.4-1, and some that are not listed."""
    made = phantoms.image(sop_class="1.2.840.10008.5.1.4.1.1.88.33")
    del made.PixelData
    unlisted = [
        {"code": f"9990{n}", "scheme": "99LOCAL", "value_type": kind, "meaning": "local"}
        for n, kind in enumerate(("TEXT", "PNAME", "DATE", "TIME", "DATETIME", "UIDREF"))
    ]
    listed = [_content(canaries, row) for row in [*concepts(), *unlisted]]
    inner = Dataset()
    inner.RelationshipType, inner.ValueType = "CONTAINS", "CONTAINER"
    inner.ConceptNameCodeSequence = [_code("126000", "DCM", "Imaging Measurement Report")]
    inner.ContentSequence = [_content(canaries, row, "inner ") for row in concepts()]
    made.ContentSequence = [*listed, inner, measurement()]
    return made


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, scheme, meaning
    return made


def measurement() -> Dataset:
    """A width of 12.5 mm."""
    made, value = Dataset(), Dataset()
    made.RelationshipType, made.ValueType = "CONTAINS", "NUM"
    made.ConceptNameCodeSequence = [_code("103355008", "SCT", "Width")]
    value.NumericValue, value.MeasurementUnitsCodeSequence = "12.5", [_code("mm", "UCUM", "millimeter")]
    made.MeasuredValueSequence = [value]
    return made


def _content(canaries: Canaries, row: dict[str, str], where: str = "") -> Dataset:
    kind, place = row["value_type"], f"{where}{row['scheme']}{row['code']} {row['value_type']}"
    made = Dataset()
    made.RelationshipType, made.ValueType = "CONTAINS", kind
    made.ConceptNameCodeSequence = [_code(row["code"], row["scheme"], row["meaning"])]
    made.ObservationDateTime = str(canaries.value("DT", f"{place} observed"))
    values = {
        "TEXT": ("TextValue", "UT"),
        "PNAME": ("PersonName", "PN"),
        "DATE": ("Date", "DA"),
        "TIME": ("Time", "TM"),
        "DATETIME": ("DateTime", "DT"),
        "UIDREF": ("UID", "UI"),
    }
    if kind in values:
        keyword, vr = values[kind]
        setattr(made, keyword, canaries.value(vr, place))
    elif kind in ("IMAGE", "COMPOSITE", "WAVEFORM"):
        reference = Dataset()
        reference.ReferencedSOPClassUID = phantoms.CT
        reference.ReferencedSOPInstanceUID = canaries.value("UI", place)
        made.ReferencedSOPSequence = [reference]
    return made


def survived(copy: Path, canaries: Canaries) -> set[str]:
    """Places (top level) where the very canary still stands."""
    data_set = pydicom.dcmread(copy)
    found = set()
    for place, canary in canaries.planted.items():
        tag = int(place.rpartition("|")[2], 16)
        element = data_set.get(tag)
        if element is not None and canary in str(_text(element.value)):
            found.add(place)
    return found


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
