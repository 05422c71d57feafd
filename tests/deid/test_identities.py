"""UIDs, dates and accession numbers: valid, deterministic, intervals kept, nothing but numbers passes."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid.derived import DerivedIdentities, already_mapped
from fiona_dagster.deid.identities import MAX_SHIFT_DAYS, Identities, dummy, is_well_known
from fiona_dagster.deid.profile import Profile
from tests.deid import phantoms

KEY = bytes(range(32))
DATES = st.dates(datetime.date(1930, 1, 1), datetime.date(2100, 12, 31))
TEXT = st.text(max_size=80)


@given(TEXT, st.integers(0, 5))
def test_uids_are_valid_and_deterministic(original: str, generation: int) -> None:
    new = Identities(KEY, "P1", generation).uid(original)

    assert new == Identities(KEY, "another participant", generation).uid(original + "\0")
    assert UID(new).is_valid
    assert len(new) <= 64
    assert new.startswith("2.25.")


@given(TEXT)
def test_other_keys_and_generations_give_other_uids(original: str) -> None:
    made = {
        Identities(KEY, "P1").uid(original),
        Identities(KEY, "P1", 1).uid(original),
        Identities(bytes(32), "P1").uid(original),
    }

    assert len(made) == 3


@given(DATES, DATES, st.text(min_size=1))
def test_intervals_between_dates_stay(first: datetime.date, second: datetime.date, participant: str) -> None:
    ids = Identities(KEY, participant)

    moved = [ids.shifted("DA", day.strftime("%Y%m%d")) for day in (first, second)]

    parsed = [datetime.datetime.strptime(day or "", "%Y%m%d").date() for day in moved]
    assert parsed[1] - parsed[0] == second - first
    assert 1 <= (first - parsed[0]).days <= MAX_SHIFT_DAYS


@given(DATES, st.times(), st.sampled_from(["", "+0100", "-0930"]), st.integers(0, 6))
def test_date_times_move_with_dates_and_keep_time_and_zone(
    day: datetime.date, time: datetime.time, zone: str, digits: int
) -> None:
    ids = Identities(KEY, "P1")
    clock = time.strftime("%H%M%S") + (f".{time.microsecond:06d}"[: digits + 1] if digits else "")

    moved = ids.shifted("DT", day.strftime("%Y%m%d") + clock + zone)

    assert moved == (ids.shifted("DA", day.strftime("%Y%m%d")) or "") + clock + zone
    assert ids.shifted("TM", clock) == clock


@given(st.sampled_from(["DA", "DT", "TM", "SH"]), TEXT)
def test_only_well_formed_values_pass(vr: str, value: str) -> None:
    moved = Identities(KEY, "P1").shifted(vr, value)

    assert moved is None or re.fullmatch(r"[0-9.:+\\-]*", moved)


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("DA", "1953"),
        ("DA", "195307"),
        ("DA", "19530732"),
        ("DA", "1953-07-04"),
        ("DA", "born 4 July"),
        ("DA", "00010101"),
        ("DT", "1953"),
        ("DT", "195307"),
        ("DT", "19530704 Smith"),
        ("DT", "19531304101112"),
        ("TM", "Smith"),
        ("TM", "10:1"),
        ("SH", "Oslo"),
        ("DA", "20180503\\Smith"),
        ("DA", "\uff12\uff10\uff11\uff18\uff10\uff15\uff10\uff13"),
    ],
)
def test_partial_and_malformed_values_are_left_to_the_basic_action(vr: str, value: str) -> None:
    assert Identities(KEY, "P1").shifted(vr, value) is None


def test_several_and_old_style_dates_move() -> None:
    ids = Identities(KEY, "P1")

    assert ids.shifted("DA", "2018.05.03 ") == ids.shifted("DA", "20180503")
    assert (
        ids.shifted("DA", "20180503\\20180504")
        == f"{ids.shifted('DA', '20180503')}\\{ids.shifted('DA', '20180504')}"
    )


@given(st.text(alphabet="0123456789.", min_size=1, max_size=64))
def test_accession_numbers_fit_and_are_stable(study: str) -> None:
    number = Identities(KEY, "P1").accession_number(study)

    assert re.fullmatch(r"Fiona[A-Za-z0-9]{11}", number)
    assert number == Identities(KEY, "P2").accession_number(study)


def test_participants_get_shifts_of_their_own() -> None:
    shifts = {Identities(KEY, f"P{n}").shift_days for n in range(50)}

    assert len(shifts) > 40


def test_only_the_standards_own_uids_are_well_known() -> None:
    assert is_well_known("1.2.840.10008.1.2.1")
    assert not is_well_known("1.2.840.10008.5.1.4.1.1.2.4711")


def test_dummies_fit_their_representation() -> None:
    from pydicom import config
    from pydicom.dataelem import DataElement

    for vr in (
        "AE",
        "AS",
        "CS",
        "DA",
        "DS",
        "DT",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "ST",
        "TM",
        "UC",
        "UR",
        "UT",
    ):
        value = dummy(vr).decode()
        DataElement(0x00091001, vr, value, validation_mode=config.RAISE)
        assert value


def test_a_day_of_derived_data_stays_only_if_it_can_be_no_true_one(tmp_path: Path) -> None:
    """Days of an original that lie as far apart as days are moved: the earlier one could be either."""
    ids = Identities(KEY, "P1")
    ds = phantoms.image()
    ds.StudyDate, ds.SeriesDate = "20180503", ids.shifted("DA", "20180503")
    for keyword in ("AcquisitionDate", "ContentDate"):
        ds.pop(keyword, None)
    source = phantoms.write(ds, tmp_path / "x.dcm")
    profile = Profile.of(ProjectSettings(name="DEMO", options=["retain_long_modified_dates"]))

    found = already_mapped([source], ids, profile)
    derived = DerivedIdentities(ids, original=ds.StudyInstanceUID, mapped=found)
    assert ds.SeriesDate not in found.days
    moved = ids.shifted("DA", ds.SeriesDate)
    assert moved is not None
    assert derived.shifted("DA", ds.SeriesDate) == moved in found.days
    assert derived.shifted("DA", moved) == moved
