"""NIfTI exports: real series, names after BIDS, and nothing that the copies do not show."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import struct
import subprocess
import zipfile
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import Any

import dcm2niix
import pydicom
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from fiona_dagster import landing
from fiona_dagster.cli.export import export as command
from fiona_dagster.errors import (
    ConfigurationError,
    DeliveryRefused,
    NotVerified,
    PermanentError,
    RequestRefused,
)
from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers import delivery, execution, intake, nifti, outcome, packing, sidecar
from fiona_dagster.transfers.bids import Kind, Runs, Session, kind_of, session_of
from fiona_dagster.transfers.layout import lay_out
from fiona_dagster.transfers.verify import read_manifest, verify_package
from tests.site import PARTICIPANT, PROJECT, Site, landing_tree

WHO = ("Quisling", "ZX83015577", "Sintef Sykehus", "19530704", "1953-07-04")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(command, [PROJECT, *map(str, arguments)], standalone_mode=False)


def identified(source: Path, folder: Path) -> list[Path]:
    """Copies of real files, with a person and a hospital in them."""
    folder.mkdir()
    made = []
    for index, path in enumerate(sorted(each for each in source.rglob("*") if each.is_file())):
        image = pydicom.dcmread(path)
        image.PatientName, image.PatientID, image.PatientBirthDate = (
            "Quisling^Vidkun",
            "ZX83015577",
            "19530704",
        )
        image.InstitutionName, image.ImageComments = "Sintef Sykehus", "Quisling, bed 7"
        image.StationName, image.DeviceSerialNumber = "MRSINTEF1", "45160"
        made.append(folder / f"{index}.dcm")
        image.save_as(made[-1])
    return made


def keeping(site: Site, **package: Any) -> None:
    """The project file of these tests."""
    site.project(
        options=["retain_long_modified_dates", "retain_safe_private", "clean_descriptors"],
        siemens_csa="rewrite",
        package=package,
    )


@pytest.fixture
def packaged(site: Site, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A study of four field maps, packaged; its StudyInstanceUID."""
    monkeypatch.setenv("FIONA_DATA", str(site.root.path))
    keeping(site)
    identified(shared / "data" / "visible" / "mr_siemens_fmap", tmp_path / "originals")
    assert landing.import_paths(site.root, [tmp_path / "originals"]).failed == 0
    (study,) = site.complete()
    with site.open() as gateway:
        done = intake.register(gateway, study)
        landing_tree(gateway, done)
        gateway.ledger.work.done(f"process:{study}", done.study.revision)
        gateway.incoming().write_request(study, PROJECT, PARTICIPANT, "Year 1", datetime.now(UTC), zone="UTC")
    assert len(site.poll().accepted) == 1
    with site.open() as gateway:
        transfer = execution.transfer_of(gateway, study, PROJECT)
        execution.deidentify(gateway, transfer)
        execution.verify(gateway, transfer)
        packing.make_package(gateway, transfer)
    return study


@pytest.mark.shared
def test_a_study_as_nifti(packaged: str, site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call(out, "--format", "nifti", "--json")

    assert done.return_value == 0, done.output
    said = json.loads(done.stdout)
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert (said["partial"], said["refused"]) == ([], [])
    (exported,) = said["exported"]
    assert sorted(exported["files"]) == [name for name in names if name.endswith(".nii.gz")]
    assert len(names) == 8
    assert all(name.startswith(f"{PARTICIPANT}/Year_1/") for name in names)
    assert all("/sub-H001_ses-Year1_" in name for name in names)
    told = dcm2niix_alone(tmp_path / "originals", tmp_path / "alone")
    assert b"Time=" in told[0][148:228], "what is emptied is there"
    images = [gzip.decompress((out / name).read_bytes()) for name in exported["files"]]
    assert sorted(image[352:] for image in images) == sorted(image[352:] for image in told)
    for image in images:
        assert not any(image[148:252]), "neither time of day nor comments"
    for name in names:
        data = (out / name).read_bytes()
        data = gzip.decompress(data)[:352] if name.endswith(".gz") else data
        assert not any(who.encode() in data + name.encode() for who in (*WHO, packaged, "MRSINTEF1", "45160"))
    document = json.loads((out / names[0]).read_text())
    assert document["EchoTime"] == 0.05
    assert document["SliceTiming"]
    assert document["PhaseEncodingDirection"] in ("i", "i-", "j", "j-")
    assert document["SeriesDescription"].startswith("EPI PE=")
    assert not any(key.endswith(("Date", "UID", "AcquisitionTime")) for key in document)

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert call(out, "--format", "nifti").return_value == 0, "again: the same bytes are left alone"
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / names[0]).write_text("{}")
    done = call(out, "--format", "nifti")
    assert done.return_value == 1
    assert "nothing is overwritten" in done.output
    assert (out / names[0]).read_text() == "{}"
    assert not [path for path in (site.root.projects / PROJECT).iterdir() if path.name.startswith(".")]


def dcm2niix_alone(folder: Path, out: Path) -> list[bytes]:
    out.mkdir()
    command = [dcm2niix.bin, "-f", "s%s", "-z", "n", "-b", "y", "-ba", "y", "-w", "2", "-o", out, folder]
    subprocess.run(command, check=True, capture_output=True)
    return [path.read_bytes() for path in sorted(out.glob("*.nii"))]


@pytest.mark.shared
def test_what_is_not_whole_is_named(packaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending = tmp_path / "dcm2niix"
    ending.write_text(f'#!/bin/sh\n{dcm2niix.bin} "$@" || exit 1\nexit 8\n')
    ending.chmod(0o700)
    monkeypatch.setattr(nifti, "converter", lambda: str(ending))
    done = call(tmp_path / "out", "--format", "nifti", "--json")

    assert done.return_value == 1
    said = json.loads(done.stdout)
    assert [each["SeriesNumber"] for each in said["partial"]] == [3, 4, 5, 6]
    assert {each["study"] for each in said["partial"]} == {packaged}
    assert {each["reason"] for each in said["partial"]} == {
        "dcm2niix could not convert all of it (exit code 8)"
    }
    assert len(said["exported"][0]["files"]) == 4, "what was made is there"
    assert "PARTIAL: series 3: dcm2niix could not" in done.stderr


@pytest.mark.shared
def test_what_dcm2niix_made_is_searched(
    packaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the allow-lists ever let something through, the search for the person's terms stops it."""
    clean_sidecar = sidecar.clean_sidecar
    leaks: list[tuple[str, Any]] = [
        ("clean_sidecar", lambda text, said="": {**clean_sidecar(text, said), "Comment": "for Quisling"}),
        ("clean_sidecar", lambda text, said="": {**clean_sidecar(text, said), "SeriesNumber": 19530704}),
        ("clean_sidecar", lambda text, said="": {**clean_sidecar(text, said), "Original": packaged}),
        ("_clean_image", planted_in),
    ]
    for name, leak in leaks:
        with monkeypatch.context() as patched:
            patched.setattr(nifti, name, leak)
            done = call(tmp_path / "out", "--format", "nifti")
        assert done.return_value == 1
        assert "files of dcm2niix hold something identifying" in done.output
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


@pytest.mark.shared
def test_images_are_delivered_in_the_package(packaged: str, site: Site) -> None:
    keeping(site, deliver=["nifti"])
    with site.open() as gateway:
        transfer = execution.transfer_of(gateway, packaged, PROJECT)
        package = packing.make_package(gateway, transfer)
        assert package.instances == len(gateway.ledger.transfers.verified_files(transfer))
        delivery.deliver(gateway, transfer, "archive")
    (sent,) = site.sftp["archive"].files.glob("*.zip")
    assert verify_package(sent) == []
    with zipfile.ZipFile(sent) as archive:
        names, index = archive.namelist(), archive.read("index.html").decode()
        whole = b"".join(map(archive.read, names))
    assert len([name for name in names if name.endswith(".nii.gz")]) == 4
    assert not any(name.endswith(".dcm") for name in names)
    assert "Images as NIfTI" in index
    assert read_manifest(sent)["contents"] == ["nifti"]
    assert read_manifest(sent)["nifti_partial"] == []
    assert not any(who.encode() in whole for who in (*WHO, packaged))


@pytest.mark.shared
def test_a_delivery_says_what_is_not_whole(
    packaged: str, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ending = tmp_path / "dcm2niix"
    ending.write_text("#!/bin/sh\nexit 3\n")
    ending.chmod(0o700)
    monkeypatch.setattr(nifti, "converter", lambda: str(ending))
    with site.open() as gateway:
        transfer = execution.transfer_of(gateway, packaged, PROJECT)
        keeping(site, deliver=["nifti"])
        with pytest.raises(PermanentError, match="could convert none of it"):
            packing.make_package(gateway, transfer)
        keeping(site, deliver=["dicom", "nifti"])
        packing.make_package(gateway, transfer)
        delivery.deliver(gateway, transfer, "archive")
        outcome.write_outcomes(gateway, packaged, PROJECT)
        rows = gateway.incoming().client.export_records(records=[packaged])
    (sent,) = site.sftp["archive"].files.glob("*.zip")
    partial = read_manifest(sent)["nifti_partial"]
    assert [each["SeriesNumber"] for each in partial] == [3, 4, 5, 6]
    assert "exit code 3" in partial[0]["reason"]
    said = "".join(row["transfer_error_message"] for row in rows)
    assert said == "delivered with 4 series that are missing or not whole as NIfTI; see manifest.json"


def planted_in(path: Path) -> None:
    with path.open("rb+") as stream:
        stream.seek(148)
        stream.write(b"of Quisling")


@pytest.mark.shared
def test_an_fmri_series(shared: Path, tmp_path: Path) -> None:
    sources = sorted((shared / "data" / "visible" / "mr_ge_fmri").glob("*.dcm"))
    laid_out, verified = copied(sources, tmp_path / "copy")
    uid = laid_out[0].files[0].header.series
    session = Session("P1/E1", "sub-P1_ses-E1")
    done = nifti.convert(laid_out, verified, tmp_path / "scratch", {uid: ["MR", "GE", "functional"]}, session)

    name = "P1/E1/func/sub-P1_ses-E1_task-AxialEPIFMRIInterleavedItoS_run-01_bold"
    assert done.partial == ()
    assert [each for each, _ in done.files] == [f"{name}.json", f"{name}.nii.gz"]
    document = json.loads(dict(done.files)[f"{name}.json"].read_text())
    assert document["TaskName"] == "AxialEPIFMRIInterleavedItoS"
    image = gzip.decompress(dict(done.files)[f"{name}.nii.gz"].read_bytes())
    assert struct.unpack_from("<4h", image, 42)[2:] == (15, 10), "150 slices"

    verified["a" * 3] = ""
    with pytest.raises(NotVerified):
        nifti.convert(laid_out, verified, tmp_path / "again", {}, session)
    verified.pop("a" * 3)
    verified[min(verified)] = "0" * 64
    with pytest.raises(NotVerified):
        nifti.convert(laid_out, verified, tmp_path / "more", {}, session)


def copied(sources: list[Path], folder: Path) -> tuple[Any, dict[str, str]]:
    folder.mkdir()
    verified = {}
    for path in sources:
        (folder / path.name).write_bytes(path.read_bytes())
        verified[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return lay_out([(path.name, folder / path.name) for path in sources]), verified


@pytest.mark.shared
def test_diffusion_has_its_tables_and_a_report_is_named(shared: Path, tmp_path: Path) -> None:
    visible = shared / "data" / "visible"
    report = next(
        path
        for path in sorted((visible / "sr_seg_sm").rglob("*"))
        if path.is_file()
        and pydicom.dcmread(path, stop_before_pixels=True, force=True).get("Modality") == "SR"
    )
    laid_out, verified = copied([*sorted((visible / "mr_uih_dti").glob("*.dcm")), report], tmp_path / "copy")
    done = nifti.convert(laid_out, verified, tmp_path / "scratch", {}, Session("P1", "sub-P1"))

    assert [name.split(".", 1)[1] for name, _ in done.files] == ["bval", "bvec", "json", "nii.gz"]
    assert all(name.startswith("P1/dwi/sub-P1_acq-") and "_dwi." in name for name, _ in done.files)
    assert len(done.files[0][1].read_text().split()) == 17
    (partial,) = done.partial
    assert partial.reason == "dcm2niix found no images (exit code 2)"


@pytest.mark.shared
def test_a_tilted_gantry_gives_two_images(shared: Path, tmp_path: Path) -> None:
    sources = sorted(
        path for path in (shared / "data" / "visible" / "ct_ge_tilt").rglob("*") if path.is_file()
    )
    sources.sort(
        key=lambda path: float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])
    )
    laid_out, verified = copied(sources[:4], tmp_path / "copy")
    done = nifti.convert(laid_out, verified, tmp_path / "scratch", {}, Session("P1", "sub-P1"))

    assert done.partial == ()
    names = [name.removeprefix("P1/other/sub-P1_") for name, _ in done.files]
    assert names == [
        f"{name}_ct.{ending}" for name in ("rec-tilt_run-01", "run-01") for ending in ("json", "nii.gz")
    ]


def test_what_leaves_of_a_sidecar() -> None:
    planted = {
        **dict.fromkeys((*sidecar.NUMBERS, *sidecar.FLAGS, *sidecar._CODES), "Quisling 1953-07-04"),
        **{key: ["Quisling", "M"] for key in sidecar._WORDS},
        "ConversionSoftwareVersion": "Quisling",
    }
    others = {
        "DelayTime": 10**400,
        "PatientName": 1,
        "AcquisitionTime": 12.5,
        "DeviceSerialNumber": 45160,
        "ProcedureStepDescription": 3,
    }
    assert sidecar.clean_sidecar(json.dumps({**planted, **others}).encode()) == {"ImageType": ["M"]}
    kept = {
        "ConversionSoftwareVersion": "v1.0.20260724",
        "EchoTime": 0.05,
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "Manufacturer": "Siemens",
        "PhaseEncodingDirection": "j-",
        "ScanningSequence": "EP",
        "SeriesDescription": "EPI",
        "SliceTiming": [0, 1.5],
    }
    text = json.dumps({**kept, "SeriesDescription": "EPI Quisling"}).encode()
    assert sidecar.clean_sidecar(text, "EPI") == kept
    for broken in (b"", b"[1]", b'{"EchoTime": "\x00'):
        with pytest.raises(ValueError):  # noqa: PT011 - json's own text
            sidecar.clean_sidecar(broken)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
KEYS = (
    st.sampled_from(sorted({*sidecar.NUMBERS, *sidecar.FLAGS, *sidecar._CODES, *sidecar._WORDS})) | st.text()
)


@settings(max_examples=40)
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_no_text_but_known_words_leaves(document: dict[str, Any]) -> None:
    known = {word for words in sidecar._WORDS.values() for word in words}
    for key, value in sidecar.clean_sidecar(json.dumps(document).encode()).items():
        assert document[key] == value or key in sidecar._WORDS
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str):
                assert set(each.split("_")) <= known or len(each) <= 12
            else:
                assert math.isfinite(each)


def header(**changes: Any) -> bytes:
    data = bytearray(352 + 8)
    fields = {"size": ("<i", 0, 348), "dim": ("<8h", 40, (2, 2, 2, 1, 1, 1, 1, 1)), "bits": ("<h", 72, 16)}
    fields |= {"begins": ("<f", 108, 352.0), "extended": ("<i", 348, 0)}
    for name, (form, at, usual) in fields.items():
        value = changes.get(name, usual)
        struct.pack_into(form, data, at, *(value if isinstance(value, tuple) else (value,)))
    data[148:156], data[228:236], data[344:348] = b"Quisling", b"Quisling", changes.get("magic", b"n+1\0")
    more: bytes = changes.get("more", b"")
    return bytes(data) + more


def test_texts_of_an_image_are_emptied_and_other_files_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(header())
    nifti._clean_image(path)
    assert b"Quisling" not in path.read_bytes()
    changes: list[dict[str, Any]] = [
        {"size": 540},
        {"magic": b"ni1\0"},
        {"extended": 1},
        {"begins": 368.0},
        {"more": b"Quisling"},
        {"dim": (9, 2, 2, 1, 1, 1, 1, 1)},
    ]
    for change in changes:
        path.write_bytes(header(**change))
        with pytest.raises(ValueError):  # noqa: PT011 - several texts
            nifti._clean_image(path)


def test_gradient_tables_are_numbers() -> None:
    assert nifti._numbers("0 1000\n-0.5  1e-05 \n\n") == b"0 1000\n-0.5 1e-05\n"
    with pytest.raises(ValueError, match="numbers only"):
        nifti._numbers("0 Quisling")


def transfer(**changes: Any) -> Transfer:
    known: dict[str, Any] = dict.fromkeys(Transfer.__dataclass_fields__)
    known |= {
        "id": 1,
        "study": "1.2.3",
        "mapped_uid": "2.25.123456789012",
        "participant": "H-001",
        "event": "E 1",
    }
    return Transfer(**{**known, **changes})


def test_sessions_are_told_apart_and_people_never_mixed() -> None:
    one, other = transfer(), transfer(id=2, study="1.2.4", mapped_uid="2.25.999999999999")
    assert session_of(one, [one]) == Session("H-001/E_1", "sub-H001_ses-E1")
    assert session_of(one, [one, other]).stem == "sub-H001_ses-E1x123456789012"
    assert session_of(other, [one, other]).stem == "sub-H001_ses-E1x999999999999"
    later = transfer(id=3, event="Year 2")
    assert session_of(one, [one, later]).stem == "sub-H001_ses-E1"
    derived = transfer(id=4, study="2.25.7", mapped_uid="2.25.7")
    assert session_of(one, [one, derived], {"2.25.7"}).stem == "sub-H001_ses-E1"
    assert session_of(derived, [one, derived], {"2.25.7"}).stem == "sub-H001_ses-E1x2257"
    kept = transfer(mapped_uid="1.2.3")  # of a project that keeps UIDs
    assert session_of(kept, [kept], {"2.25.7"}).stem == "sub-H001_ses-E1"
    for participant in ("H001", "h.001"):
        with pytest.raises(RequestRefused):
            session_of(one, [one, transfer(id=5, participant=participant)])
    with pytest.raises(RequestRefused):
        session_of(transfer(participant="Ω"), [])


@pytest.mark.parametrize(
    ("types", "said", "kind"),
    [
        (["MR", "T1"], {}, Kind("anat", "T1w")),
        (["T2", "FLAIR"], {}, Kind("anat", "FLAIR")),
        (["localizer", "T1"], {}, Kind("other", "localizer")),
        (["functional"], {}, Kind("func", "bold")),
        (["ABCD-MB-fMRI-QA"], {}, Kind("other", "mr")),
        (["ABCD-rsfMRI"], {}, Kind("func", "bold")),
        (["diffusion"], {}, Kind("other", "dwi")),
        (["ABCD-Diffusion-FM-AP", "diffusion"], {"ScanningSequence": "EP_SE"}, Kind("fmap", "epi")),
        (["field map"], {"ImageType": ["P"]}, Kind("fmap", "phasediff")),
        (["field map"], {"EchoNumber": 2}, Kind("fmap", "magnitude2")),
        (["perfusion"], {"ArterialSpinLabelingType": "PASL"}, Kind("perf", "asl")),
        ([], {}, Kind("other", "mr")),
    ],
)
def test_kinds(types: list[str], said: dict[str, Any], kind: Kind) -> None:
    assert kind_of(types, "MR", said, directions=False) == kind
    assert kind_of(types, "CT", said, directions=False).folder == "other"


def test_no_two_images_have_one_name() -> None:
    runs, t1 = Runs(Session("P", "sub-P")), Kind("anat", "T1w")
    names = [
        *runs.names([(t1, "", "")]),
        *runs.names([(t1, "", ""), (t1, "", "")]),
        *runs.names([(t1, "", "")]),
    ]
    assert [name.partition("_")[2] for name in names] == [
        "run-01_T1w",
        "run-02_chunk-1_T1w",
        "run-02_chunk-2_T1w",
        "run-03_T1w",
    ]


def test_dcm2niix_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install"):
        nifti.converter()


def test_nothing_appears_where_another_file_stands(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.json").write_text("other")
    converted = nifti.Converted((("a.nii.gz", tmp_path / "a"), ("b.json", tmp_path / "b")), ())
    with pytest.raises(DeliveryRefused):
        nifti.place(converted, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.json"]
