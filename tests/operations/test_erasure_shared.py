"""Participants share a study, a project keeps UIDs: one is erased, killed on the way; nobody else loses."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import discard, quarantine_file, quarantined
from fiona_dagster.ledger import Ledger
from fiona_dagster.operations.rebuild import rebuild
from fiona_dagster.redcap.sandbox import running_sandbox
from fiona_dagster.transfers import delivery, outcome
from fiona_dagster.transfers.context import Gateway
from tests.accounting import assert_all_accounted
from tests.running import fiona
from tests.site import PARTICIPANT, PROJECT, STUDY, Site, running_site

ALONE = "1.2.826.0.1.3680043.10.4711.8"
"""Begins another study's UID, too."""
LONGER = f"{ALONE}1"
PERSON = {
    "PatientName": "Ferreiro^Brunhild",
    "PatientID": "WW90217744",
    "PatientBirthDate": "19480913",
    "AccessionNumber": "ACC9911882",
}
OTHERS = (("H002", PROJECT), ("H701", "KEEP"))
ORDERED = ("erase", "--project", PROJECT, "--participant", PARTICIPANT, "--yes")
FULL = bool(os.environ.get("FIONA_TEST_FULL"))


def reason(study: str) -> dict[str, str]:
    return {"code": "test", "source": "test", "StudyInstanceUID": study}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, frozenset[str]]:
    """A site whose services have ended, and what must not be found of it after the erasure.

    The participant has one study alone, and was taken for the one of another study that somebody else of the
    project has, and a project that keeps UIDs.
    """
    folder = tmp_path_factory.mktemp("shared")
    words = {ALONE, PARTICIPANT, *PERSON.values(), "Ferreiro", "Brunhild"}
    with running_site(folder) as site:
        site.project("KEEP", options=["retain_uids", "retain_long_modified_dates"])
        site.arrive(1, 2)
        site.arrive(1, 2, StudyInstanceUID=ALONE, SeriesInstanceUID=f"{ALONE}.2", **PERSON)
        site.arrive(1, StudyInstanceUID=LONGER, SeriesInstanceUID=f"{LONGER}.2")
        assert set(site.complete()) == {STUDY, ALONE, LONGER}
        for study in (STUDY, ALONE, LONGER):
            site.register(study)
        site.ask()
        assert len(site.poll().accepted) == 1
        site.make_package()  # and nobody sent it
        for participant, project in OTHERS:
            site.ask(participant, project=project)
            assert len(site.poll().accepted) == 1
            deliver(site, project, STUDY)
        site.ask(study=ALONE)
        assert len(site.poll().accepted) == 1
        words.add(deliver(site, PROJECT, ALONE))
        plant_leftovers(site)
        for study in (ALONE, LONGER):
            for number in range(2):  # one stays, of the other the log tells
                (folder / "odd.dcm").write_bytes(b"odd")
                quarantine_file(site.root, folder / "odd.dcm", reason(study))
                if number:
                    kept = [item for item in quarantined(site.root) if item.study == study]
                    discard(site.root, kept[:1])
    return folder, frozenset(words)


def plant_leftovers(site: Site) -> None:
    """What kills may leave: unbooked or half-written, named by who it is of."""
    for name in (
        f"outbox/{PROJECT}/{PROJECT}_{PARTICIPANT}_Baseline_123_r9.zip.md5",
        f"outbox/{PROJECT}/.{PROJECT}_{PARTICIPANT}_Baseline_123_r9.zip.part",
        f"DAIC/{PROJECT}/{PROJECT}_{PARTICIPANT}_Baseline_123_r8/triple.tgz",
        f"projects/{PROJECT}/.export-1/{PARTICIPANT}",
        f"site/.ledger/.{ALONE}.json.0abc.part",
        f"site/archive/.incoming/1-dead/{PARTICIPANT}.part",
    ):
        path = site.root.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PARTICIPANT)


def deliver(site: Site, project: str, study: str) -> str:
    transfer, _ = site.make_package(project, study)
    with site.open() as gateway:
        delivery.deliver(gateway, transfer, "archive")
        outcome.write_outcomes(gateway, study, project)
    return transfer.mapped_uid


@contextmanager
def reopened(prepared: Path, folder: Path) -> Iterator[DataRoot]:
    """A copy of the site with its REDCap."""
    shutil.copytree(prepared, folder, symlinks=True)
    with running_sandbox(folder / "redcap") as redcap:
        root = DataRoot(folder / "data")
        document = json.loads(root.config_file.read_text())
        document["redcap"]["url"] = redcap.url
        root.config_file.write_text(json.dumps(document))
        yield root


def of_others(root: DataRoot) -> dict[str, object]:
    """Everything that is theirs: rows, originals, packages, copies, requests."""
    found: dict[str, object] = {}
    with Ledger(root) as ledger:
        numbers = [t.id for t in ledger.transfers.all() if t.participant != PARTICIPANT]
        marks = ", ".join(map(str, numbers))
        for (table,) in ledger.store.rows("SELECT name FROM sqlite_master WHERE type = 'table'"):
            names = {row["name"] for row in ledger.store.rows(f"PRAGMA table_info({table})")}
            where = ""
            if table == "transfers":
                where = f"id IN ({marks})"
            elif "transfer" in names:
                where = f"transfer IN ({marks})"
            elif "study" in names:
                where = f"study IN ('{STUDY}', '{LONGER}')"
            if where:
                query = f"SELECT * FROM {table} WHERE {where}"  # noqa: S608 - names and numbers from above
                found[table] = [tuple(row) for row in ledger.store.rows(query)]
    for top in (root.site, root.daic, root.outbox, root.quarantine):
        for path in sorted(top.rglob("*")):
            name = path.relative_to(root.path).as_posix()
            side = path.with_suffix(".json")
            text = (name + (side.read_text() if side.is_file() else "")).replace(LONGER, "")
            theirs = path.is_file() and PARTICIPANT not in text and ALONE not in text
            if theirs and path.parent.name not in (".ledger", ".arrived", ".incoming"):
                content = path.read_bytes()
                if path.name == ".log.jsonl":
                    content = b"".join(line for line in content.splitlines() if LONGER.encode() in line)
                found[name] = hashlib.sha256(content).hexdigest()
    return found


def traces(root: Path, words: frozenset[str]) -> list[str]:
    """Files, or their names, that have one of these words; a longer UID is another one."""
    found = []
    for path in sorted(root.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        if path.is_symlink():
            content = str(path.readlink()).encode()
        text = (path.name.encode() + b" " + content).replace(LONGER.encode(), b"")
        if any(word.encode() in text for word in words):
            found.append(str(path.relative_to(root)))
    return found


def assert_only_that_went(root: DataRoot, before: dict[str, object], words: frozenset[str]) -> None:
    assert not root.erasure_file.exists()
    assert traces(root.path, words) == []
    with Gateway(root) as gateway:
        asked = [(each.study, each.participant) for each in gateway.incoming().requests()]
        rows = gateway.incoming().client.export_records(fields=["study_instance_uid"])
    assert sorted(asked) == [(STUDY, participant) for participant, _ in OTHERS]
    assert {row["study_instance_uid"] for row in rows} == {STUDY, LONGER}
    after = of_others(root)
    assert {name: after.get(name) for name in before} == before
    with Ledger(root) as ledger:
        assert len(ledger.store.rows("SELECT * FROM erasures")) == 1
    assert_all_accounted(root)


@pytest.mark.parametrize("way", ["again and again", "anywhere"] if FULL else ["again and again"])
def test_killed_it_takes_all_of_one_and_nothing_of_others(
    prepared: tuple[Path, frozenset[str]], tmp_path: Path, way: str
) -> None:
    if way == "anywhere":
        kill_anywhere(*prepared, tmp_path)
    else:
        kill_again_and_again(*prepared, tmp_path)


def kill_again_and_again(folder: Path, words: frozenset[str], place: Path) -> None:
    """One erasure that is killed whenever it was taken up, a bit further each time."""
    with reopened(folder, place / "site") as root:
        before = of_others(root)
        assert len(traces(root.path, words)) > 10
        kills = 0
        for at in itertools.count(2, 5):
            ordered = ("erase", "--resume") if root.erasure_file.exists() else ORDERED
            done = fiona(*ordered, data=root.path, die_at=at)
            if done.returncode != -9:
                break
            kills += 1
            if root.erasure_file.exists():
                refused = fiona("import", place, data=root.path)
                assert "fiona erase --resume" in refused.stderr
        assert kills > 5
        assert done.returncode == 1, done.stderr  # tokens of tables that this site lacks
        assert_only_that_went(root, before, words)
        assert rebuild(root).problems == []
        assert traces(root.path, words) == []
        assert_all_accounted(root)


def kill_anywhere(folder: Path, words: frozenset[str], place: Path) -> None:
    """One kill at each of the hundreds of changes that an erasure makes, each on a fresh copy."""
    for at in itertools.count(1):
        with reopened(folder, place / str(at)) as root:
            before = of_others(root)
            killed = fiona(*ORDERED, data=root.path, die_at=at).returncode == -9
            if killed:
                again = ("erase", "--resume") if root.erasure_file.exists() else ORDERED
                if fiona(*again, data=root.path).returncode == 2:
                    assert not root.erasure_file.exists(), "all was done when it was killed"
            assert_only_that_went(root, before, words)
        shutil.rmtree(place / str(at))
        if not killed:
            return
