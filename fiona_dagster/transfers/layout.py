"""Names of files inside a package, from the de-identified headers.

Template: ``<participant>/<event>/<modality>/<series number>[_<description>]/<n>.dcm``. A component that
the headers do not have is left out or stands as a zero; everything that is not plain ASCII becomes ``_``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fiona_dagster.errors import UnreadableDicom

_KEYWORDS = (
    "PatientID",
    "ClinicalTrialTimePointID",
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "SeriesInstanceUID",
    "InstanceNumber",
    "SOPInstanceUID",
)
_UNSAFE = re.compile(r"[^A-Za-z0-9+\-]+")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class _Header:
    values: dict[str, str]
    name: str
    path: Path

    def number(self, keyword: str) -> int:
        try:
            return int(self.values[keyword])
        except ValueError:
            return 0


def safe_component(text: str, fallback: str = "") -> str:
    """One component of a name that every file system takes.

    Args:
        text: anything.
        fallback: what stands there when nothing is left of ``text``.
    """
    safe = _UNSAFE.sub("_", text.strip()).strip("_-+")[:64] or fallback
    return f"_{safe}" if _DEVICE.fullmatch(safe) else safe


def arcnames(
    files: Sequence[tuple[str, Path]], *, participant: str = "", event: str = ""
) -> list[tuple[str, Path]]:
    """Names inside the package for de-identified files, sorted and without repeats.

    Args:
        files: (name in the verification record, path) of the de-identified files of one study.
        participant: first component; default: PatientID of the headers.
        event: second component; default: ClinicalTrialTimePointID (PS3.3 C.7.2.3) of the headers.

    Raises:
        UnreadableDicom: a file is no DICOM.
    """
    series: dict[tuple[str, ...], dict[str, list[_Header]]] = {}
    for name, path in files:
        header = _read(name, path)
        by_uid = series.setdefault(_folder(header, participant, event), {})
        by_uid.setdefault(header.values["SeriesInstanceUID"], []).append(header)
    named: list[tuple[str, Path]] = []
    taken: set[str] = set()
    for parts in sorted(series):
        for uid in sorted(series[parts]):
            folder = _free("/".join(parts), taken)
            named += _number(folder, series[parts][uid])
    return sorted(named)


def _free(name: str, taken: set[str]) -> str:
    # Names are told apart without regard to case: packages are unpacked on Windows and macOS too.
    candidate, count = name, 1
    while candidate.lower() in taken:
        count += 1
        candidate = f"{name}_s{count}"
    taken.add(candidate.lower())
    return candidate


def _number(folder: str, headers: list[_Header]) -> list[tuple[str, Path]]:
    ordered = sorted(headers, key=lambda h: (h.number("InstanceNumber"), h.values["SOPInstanceUID"], h.name))
    return [(f"{folder}/{index:05d}.dcm", header.path) for index, header in enumerate(ordered, 1)]


def _folder(header: _Header, participant: str, event: str) -> tuple[str, ...]:
    from fiona_dagster.deid import defined_modality

    values = header.values
    number = f"{max(header.number('SeriesNumber'), 0):03d}"
    description = safe_component(values["SeriesDescription"])
    parts = [
        safe_component(participant or values["PatientID"], "participant"),
        safe_component(event or values["ClinicalTrialTimePointID"]),
        defined_modality(values["Modality"]),
        f"{number}_{description}" if description else number,
    ]
    return tuple(part for part in parts if part)


def _read(name: str, path: Path) -> _Header:
    from pydicom import config as pydicom_config
    from pydicom import dcmread

    try:
        # pydicom quotes values in warnings and errors; these must not travel on.
        with warnings.catch_warnings(), pydicom_config.disable_value_validation():
            warnings.simplefilter("ignore")
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
            values = {keyword: str(dataset.get(keyword, "") or "") for keyword in _KEYWORDS}
    except Exception as error:  # noqa: BLE001 - pydicom raises anything on broken bytes
        raise UnreadableDicom(
            f"a de-identified file can't be read ({type(error).__name__}); de-identify the study again"
        ) from None
    return _Header(values, name, path)
