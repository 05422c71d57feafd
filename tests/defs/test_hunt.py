"""A hunt by real use: one person planted everywhere in every notation, all options on, the whole way through.

Everything that leaves (packages, what peers hold, what commands write) and everything that Dagster keeps is
searched by code of its own, which knows no term and no rule of the gateway.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import requests
from pydicom.dataset import Dataset

from fiona_dagster import landing
from fiona_dagster.defs.build import build_defs
from fiona_dagster.transfers import export
from fiona_dagster.transfers.intake import accept_flag, register
from tests.deid import phantoms, planting
from tests.running import fiona
from tests.site import EVENT, PARTICIPANT, PROJECT, STUDY, Site

NAME, NUMBER, BORN, ACCESSION = "Quisling^Wendelin", "ZX83015577", "19530704", "ACC4455667"
PHONE, STREET, PHYSICIAN = "+47 55 12 34 56", "Nygaten 17, 5003 Bergen", "Ekdal^Hjalmar"
OPTIONS = [
    "retain_safe_private",
    "retain_uids",
    "retain_device_identity",
    "retain_institution_identity",
    "retain_patient_characteristics",
    "retain_long_full_dates",
    "retain_long_modified_dates",
    "clean_descriptors",
    "clean_structured_content",
    "clean_graphics",
]
FORMS = [
    *("Wendelin Quisling", "QUISLING, WENDELIN", "quisling^wendelin", "Mr. Quisling", "Q u i s l i n g"),
    *("MRN ZX83015577", "zx-83015577", "ZX 8301 5577", "83015577", "0083015577"),
    *("b. 04.07.1953", "4 July 1953", "Jul 4, 1953", "1953/07/04", "1953-07-04", "born 19530704", "530704"),
    *("acc ACC4455667", "ACC-4455667", "4455667", "tel 55123456", "+4755123456", "Nygaten 17", "dr. Ekdal"),
    base64.b64encode(b"Wendelin Quisling").decode(),
    base64.b64encode(b"ZX83015577 04.07.1953").decode(),
    b"Quisling ZX83015577".hex(),
    "Quisling_Wendelin_ZX83015577",
]


def needles(kept_dates: bool) -> dict[str, bytes]:
    """What must be nowhere, in bytes; compared in lower case."""
    words = ["quisling", "wendelin", "83015577", "8301 5577", "4455667", "55123456", "nygaten", "ekdal"]
    words += ["gnilsiuq", "q u i s l i n g"]
    if not kept_dates:
        words += ["19530704", "1953-07-04", "1953/07/04", "04.07.1953", "4 july 1953", "jul 4, 1953"]
    found = {word: word.encode() for word in words}
    for text in ("Quisling", "quisling", "QUISLING", "Wendelin", "ZX83015577", "ACC4455667", "Ekdal"):
        for start in range(3):
            whole = base64.b64encode(b"\0" * start + text.encode()).decode()
            core = whole[(start * 8 + 5) // 6 : len(whole.rstrip("=")) - (1 if whole.endswith("=") else 0)]
            found[f"base64 of {text} at {start}"] = core.lower().encode()
        found[f"hex of {text}"] = binascii.hexlify(text.encode())
        found[f"utf-16 of {text}"] = text.lower().encode("utf-16-le")
    return {name: word for name, word in found.items() if len(word) > 5}


def study(folder: Path, *, full: bool) -> None:
    """Files with the person in every row of the tables, at the top, nested, private, in a report."""
    folder.mkdir()
    forms = itertools.cycle(FORMS)
    makers: list[Callable[[phantoms.Canaries], Dataset]] = [
        lambda _: phantoms.image(),
        planting.flat,
        planting.nested,
        planting.report,
    ]
    for number, make in enumerate(makers if full else makers[:2], 1):
        image = make(phantoms.Canaries())
        for place, element in enumerate(image.iterall()):
            if element.VR in ("LO", "ST", "LT", "UT", "UC") and "QZCAN" in str(element.value):
                element.value = f"{next(forms)} x{place}"
            elif element.VR == "SH" and "QZCAN" in str(element.value):
                element.value = next(form for form in forms if len(form) <= 16)
            elif element.VR == "PN":
                element.value = (NAME, PHYSICIAN)[place % 2]
            elif element.tag == 0x00100030:
                element.value = BORN  # another would be searched for, too
        whose(image, number)
        phantoms.write(image, folder / f"{number}.dcm")


def whose(image: Dataset, number: int) -> None:
    image.PatientName, image.PatientID, image.PatientBirthDate = NAME, NUMBER, BORN
    image.AccessionNumber, image.StudyInstanceUID, image.SeriesInstanceUID = (
        ACCESSION,
        STUDY,
        f"{STUDY}.{number}",
    )
    image.SOPInstanceUID, image.PatientTelephoneNumbers, image.PatientAddress = (
        f"{STUDY}.3.{number}",
        PHONE,
        STREET,
    )
    image.ReferringPhysicianName, image.OtherPatientNames = PHYSICIAN, "Quisling^W"
    image.SeriesDescription, image.ProtocolName = "knee of Wendelin Quisling", "T1 quisling zx83015577"
    image.ImageComments, image.BurnedInAnnotation = "1953-07-04 is the day, 83015577", "NO"
    image.StudyDate = "20180503"


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of everything below, of archives also what is in them."""
    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)), str(path.relative_to(folder)).encode()
        if not path.is_file():
            continue
        data = path.read_bytes()
        yield str(path), data
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f"{path}!{name}", name.encode() + b"\n" + archive.read(name)
        if path.suffix in (".gz", ".tgz"):
            yield f"{path}!", zlib.decompressobj(31).decompress(data)


def hits(where: Iterator[tuple[str, bytes]], wanted: dict[str, bytes]) -> list[str]:
    found = []
    for name, data in where:
        lower = data.lower()
        again = lower.replace(b"\0", b"")
        found += [f"{name}: {what}" for what, word in wanted.items() if word in lower or word in again]
    return found


def requests_of(site: Site) -> list[dict[str, str]]:
    """What REDCap holds of transfers; the rest of *Incoming* describes the study as received."""
    form = {"token": site.redcap.tokens["Incoming"], "content": "record", "format": "json", "type": "flat"}
    rows: list[dict[str, str]] = requests.post(site.redcap.url, data=form, timeout=120).json()
    return [row for row in rows if row["redcap_repeat_instrument"] == "transfers"]


FULL = bool(os.environ.get("FIONA_TEST_FULL"))


@pytest.mark.parametrize(
    "without",
    ["retain_long_full_dates", "retain_long_modified_dates"] if FULL else ["retain_long_full_dates"],
)
def test_a_person_planted_everywhere_is_nowhere(site: Site, tmp_path: Path, without: str) -> None:
    options = [option for option in OPTIONS if option != without]
    wanted = needles(kept_dates=False)
    rules = [
        {"tag": "SeriesDescription", "action": "keep"},
        {"tag": "ImageComments", "action": "keep"},
        {"tag": "RequestAttributesSequence", "action": "keep"},
        {"tag": "ProtocolName", "action": "clean"},
        {"tag": "StudyDescription", "action": "regex", "pattern": "(.*)"},
        {"tag": "RequestingService", "action": "hash"},
        {"tag": "0009,xx01", "creator": "HUNT", "action": "keep"},
    ]
    targets = ["archive", "pacs"]
    site.project(
        options=options,
        rules=rules,
        targets=targets,
        weak_hits="pass",
        siemens_csa="rewrite",
        kinds={"structured_report": "clean", "encapsulated_document": "keep"},
    )
    source, out = tmp_path / "in", tmp_path / "out"
    study(source, full=FULL)
    planted = {hit.rpartition(": ")[2] for hit in hits(contents(source), wanted)}
    assert len(planted) > 15, "the search finds what is there"
    done = fiona(
        *("deidentify", "--project", PROJECT, "--participant", PARTICIPANT, "--event", EVENT),
        *(
            "--report",
            tmp_path / "told" / "report.json",
            "--page",
            tmp_path / "told" / "page.html",
            source,
            out,
        ),
        data=site.root.path,
    )
    said = {"out": done.stdout.encode(), "err": done.stderr.encode()}
    assert done.returncode == 0, done.stderr
    assert hits(contents(out), wanted) == []
    assert hits(contents(tmp_path / "told"), wanted) == []
    assert hits(iter(said.items()), wanted) == []

    assert landing.import_paths(site.root, [source]).quarantined == 0
    site.receive()
    with site.open() as gateway:
        if FULL:
            accept_flag(gateway, STUDY, "damaged_instances", by="anna", reason="planted")
        register(gateway, STUDY)
    site.ask()
    polled = site.poll()
    assert polled.accepted, [each.reason for each in polled.refused]
    home = tmp_path / "dagster-home"
    home.mkdir()
    repository = build_defs(site.root).get_repository_def()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        for name in ("studies", f"studies_{PROJECT}"):
            instance.add_dynamic_partitions(name, [STUDY])
        for job in ("process_study", f"transfer_{PROJECT}", f"deliver_{PROJECT}", f"deliver_{PROJECT}"):
            assert repository.get_job(job).execute_in_process(instance=instance, partition_key=STUDY).success
    with site.open() as gateway:
        exported = list(
            export.export(gateway, [site.transfer()], tmp_path / "exported", ("zip", "tgz"), by="anna")
        )
    assert [each.problem for each in exported] == [""]
    for arguments in (
        ("status", STUDY, "--json"),
        ("review", PROJECT, "--json", "--full"),
        ("reconcile",),
        ("studies", "--project", PROJECT, "--json"),
    ):
        told = fiona(*arguments, data=site.root.path)
        said[arguments[0]] = (told.stdout + told.stderr).encode()
    places = [
        *(
            home,
            tmp_path / "exported",
            site.root.path / "DAIC",
            site.root.path / "outbox",
            site.root.path / "logs",
        ),
        *(site.pacs.folder, site.root.path / "projects", *(server.files for server in site.sftp.values())),
    ]
    assert all(any(place.rglob("*")) for place in (home, tmp_path / "exported", site.pacs.folder))
    report = {str(place): hits(contents(place), wanted) for place in places if place.is_dir()}
    report["commands"] = hits(iter(said.items()), wanted)
    report["redcap"] = hits(iter([("rows", json.dumps(requests_of(site)).encode())]), wanted)
    assert {place: found for place, found in report.items() if found} == {}
