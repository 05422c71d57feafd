"""The series record with the original's keys, and what REDCap's *Incoming* project gets of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fiona_dagster.studies.attributes import (
    B_VALUE,
    CSA_KEYS,
    DIRECTION,
    RECORD_TAGS,
    VARYING_KEY,
    diffusion_directionality,
    os_level,
    record_value,
)
from fiona_dagster.studies.classify import classify
from fiona_dagster.studies.contents import StudyContents
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.model import RuleSet
from fiona_dagster.studies.values import number, printed

UNKNOWN_CONNECTION = {"AETitleCaller": "unknown", "AETitleCalled": "unknown", "CallerIP": "unknown"}
"""Connection of files that came without one, as the original writes it."""
_SERIES_DATE = 0x00080021
_SLICE_LOCATION = 0x00201041
_INSTANCE_NUMBER = 0x00200013
_ALWAYS_DIFFER = ("InstanceNumber", "SliceLocation")


def build_series_records(
    contents: StudyContents,
    rules: RuleSet,
    incoming_connection: Mapping[str, str] | None = None,
    of_series: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, dict[str, Any]]:
    """The record of every series of a study.

    Values come from the first instance (lowest InstanceNumber, then SOPInstanceUID), ``SliceLocation`` is the
    lowest of the series, ``NumFiles`` counts distinct instances; so arrival order and repeats change nothing.
    ``ValuesDiffer`` names the keys whose values are not the same in the whole series.

    Args:
        contents: the study.
        rules: what gives the types.
        incoming_connection: ``AETitleCaller``, ``AETitleCalled``, ``CallerIP``.
        of_series: SeriesInstanceUID -> the same, where the sender of a series' first file is known.

    Returns:
        SeriesInstanceUID -> record (behaviour reference, section 2.1).
    """
    known = of_series or {}
    return {
        series: series_record(instances, rules, clean_connection(known.get(series, incoming_connection)))
        for series, instances in contents.series.items()
    }


def clean_connection(connection: Mapping[str, str] | None) -> dict[str, str]:
    """The original's form: no quotes, blanks and backslashes in AE titles, ``0.0.0.0`` for no address."""
    if connection is None:
        return dict(UNKNOWN_CONNECTION)
    strip = str.maketrans("", "", "\"' \\\0")
    return {
        "AETitleCaller": connection.get("AETitleCaller", "").translate(strip) or "unknown",
        "AETitleCalled": connection.get("AETitleCalled", "").translate(strip) or "unknown",
        "CallerIP": connection.get("CallerIP", "") or "0.0.0.0",  # noqa: S104 - the original's word for none
    }


def series_record(
    instances: Sequence[InstanceHeader], rules: RuleSet, connection: Mapping[str, str]
) -> dict[str, Any]:
    """The record of one series.

    Args:
        instances: distinct instances, the first one first.
        rules: what gives the types.
        connection: see :func:`clean_connection`.
    """
    first = instances[0]
    record: dict[str, Any] = {"IncomingConnection": dict(connection)}
    for key, tag in RECORD_TAGS.items():
        value = first.value(tag)
        if value is not None:
            record[key] = record_value(key, value)
    level = os_level(first)
    if level is not None:
        record["OSLevel"] = level
    lowest = _lowest_location(instances)
    if lowest is not None:
        record["SliceLocation"] = lowest
    record.update(_siemens(instances))
    differing = _differing(instances)
    if differing:
        record[VARYING_KEY] = differing
    record["NumFiles"] = str(len(instances))
    record["ClassifyType"] = classify(instances, rules, {"IncomingConnection": str(dict(connection))})
    return dict(sorted(record.items()))


def _siemens(instances: Sequence[InstanceHeader]) -> dict[str, Any]:
    """What Siemens' own headers say of the first instance, and the diffusion of every instance."""
    record: dict[str, Any] = {
        key: value for key, value in instances[0].vendor.items() if key in CSA_KEYS and isinstance(value, str)
    }
    diffusion = [found for header in instances for found in _diffusion(header)]
    if diffusion:
        record["siemensDiffusionInformation"] = diffusion
    return record


def _diffusion(header: InstanceHeader) -> list[dict[str, Any]]:
    """One entry an instance; of a multi-frame object one for each kind of frame."""
    vendor = header.vendor
    if vendor.get("DiffusionDirectionality"):
        names = ("B_value", "DiffusionDirectionality", "DiffusionGradientDirection")
        said = [[_plain_list(vendor.get(name)) for name in names]]
    else:
        said = [
            [_plain_number(one, B_VALUE), way, _plain_number(one, DIRECTION) if way == "DIRECTIONAL" else ""]
            for _, one in header.frames()
            if (way := diffusion_directionality(one))
        ]
    distinct = {repr(each): each for each in said}.values()
    return [
        {
            "B_value": b_value,
            "SOPInstanceUID": header.sop_instance,
            "InstanceNumber": header.text(_INSTANCE_NUMBER),
            "DiffusionDirectionality": directionality,
            "DiffusionGradientDirection": direction,
        }
        for b_value, directionality, direction in distinct
    ]


def _plain_number(header: InstanceHeader, tag: int) -> str | list[str]:
    """Numbers as Siemens' own headers write them: text, ``1000`` and not ``1000.0``."""
    value = header.value(tag)
    if isinstance(value, tuple):
        return [f"{part:g}" if isinstance(part, float) else str(part) for part in value]
    return f"{value:g}" if isinstance(value, float) else header.text(tag)


def _plain_list(value: str | tuple[str, ...] | None) -> str | list[str]:
    return list(value) if isinstance(value, tuple) else value or ""


def _differing(instances: Sequence[InstanceHeader]) -> list[str]:
    """Keys whose values are not the same in all instances and frames; numbers and places always differ."""
    found = set()
    for key, tag in RECORD_TAGS.items():
        if key in _ALWAYS_DIFFER:
            continue
        # equal bytes are equal values; only where bytes differ the values are looked at
        bytes_differ = len({header.elements.get(tag) for header in instances}) > 1
        if any(tag in header.varying for header in instances) or (
            bytes_differ and len({_value_of(header, tag) for header in instances}) > 1
        ):
            found.add(key)
    found.update(
        key for key in CSA_KEYS if key != "siemensDiffusionInformation" and _said_differ(instances, key)
    )
    if len({os_level(header) for header in instances}) > 1:
        found.add("OSLevel")
    return sorted(found)


def _said_differ(instances: Sequence[InstanceHeader], key: str) -> bool:
    """Whether Siemens' own headers say something else in another instance."""
    return len({header.vendor.get(key) for header in instances}) > 1


def _value_of(header: InstanceHeader, tag: int) -> str | None:
    """Equal for equal values, however they are encoded."""
    value = header.value(tag)
    return None if value is None else printed(value)


def _lowest_location(instances: Sequence[InstanceHeader]) -> str | None:
    found = [
        (place, header.text(_SLICE_LOCATION))
        for header in instances
        if (place := number(header.value(_SLICE_LOCATION))) is not None
    ]
    return min(found)[1] if found else None


def incoming_fields(
    contents: StudyContents,
    records: Mapping[str, Mapping[str, Any]],
    *,
    calling_ae: str,
    called_ae: str,
) -> tuple[dict[str, str], list[dict[str, str]]]:
    """What REDCap's *Incoming* project gets (behaviour reference, section 7.1).

    Args:
        contents: the study.
        records: its series records.
        calling_ae: AE title of the sender.
        called_ae: AE title that the sender addressed.

    Returns:
        The fields of instrument ``incoming_studies`` and one dict for each repetition of ``series``.
    """
    order = sorted(records, key=lambda uid: (_series_number(records[uid]), uid))

    def of_study(key: str) -> str:
        return next((str(records[uid][key]) for uid in order if records[uid].get(key)), "")

    study = {
        "study_instance_uid": contents.study,
        "study_institution_name": of_study("InstitutionName"),
        "study_aetitle_sender": calling_ae,
        "study_aetitle_addressed": called_ae,
        "study_patient_name": of_study("PatientName"),
        "study_patient_id": of_study("PatientID"),
        "study_description": of_study("StudyDescription"),
        "study_date": of_study("StudyDate"),
        "study_time": of_study("StudyTime"),
        "study_accession_number": of_study("AccessionNumber"),
    }
    return study, [_series_fields(contents, uid, records[uid]) for uid in order]


def shown_modality(record: Mapping[str, Any]) -> str:
    """Modality as it may be shown where nothing may identify; "" for what is no defined term's form."""
    text = str(record.get("Modality", ""))
    return text if re.fullmatch("[A-Z0-9_]{1,16}", text) else ""


def shown_number(record: Mapping[str, Any]) -> str:
    """SeriesNumber as it may be shown where nothing may identify; "" for what is no number."""
    text = str(record.get("SeriesNumber", ""))
    return text if re.fullmatch("[0-9]{1,12}", text) else ""


def _series_number(record: Mapping[str, Any]) -> float:
    value = number(record.get("SeriesNumber"))
    return float("inf") if value is None else value


def _series_fields(contents: StudyContents, series: str, record: Mapping[str, Any]) -> dict[str, str]:
    return {
        "series_instance_uid": series,
        "series_description": str(record.get("SeriesDescription", "")),
        "series_date": contents.first(series).text(_SERIES_DATE),
        "series_time": str(record.get("SeriesTime", "")),
        "series_num_files": str(record["NumFiles"]),
        "series_sequence_name": str(record.get("SequenceName", "")),
        "series_classify_types": ", ".join(record["ClassifyType"]),
    }
