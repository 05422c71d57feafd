from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import StorageUids
from fiona_dagster.errors import StorageFull, UnreadableDicom
from fiona_dagster.landing import Caller, Landing, Receipt, Visit, read_journals
from fiona_dagster.landing import files as landing_files
from fiona_dagster.landing.journal import Journal
from fiona_dagster.landing.prefix import archive_prefix
from tests.making import CT, EXPLICIT, MR, SERIES, STUDY, data_set, part10

CALLER = Caller("SCANNER", "FIONA", "10.0.0.1")


def uids(instance: str, **changes: str) -> StorageUids:
    values = {"study": STUDY, "series": SERIES, "sop_class": CT, "modality": "CT", **changes}
    return StorageUids(sop_instance=instance, **values)


def file_one(
    landing: Landing,
    visit: Visit,
    instance: str,
    content: bytes | None = None,
    *,
    nameless: bool = False,
    **changes: str,
) -> Receipt:
    new = landing.new_file(nameless=nameless)
    new.write([part10(data_set(instance), instance) if content is None else content])
    new.commit()
    return visit.file_object(new if nameless else new.path, uids(instance, **changes), EXPLICIT)


def archived(root: DataRoot) -> list[str]:
    return sorted(p.relative_to(root.archive).as_posix() for p in root.archive.rglob("*") if p.is_file())


def test_an_object_is_in_archive_and_journal(root: DataRoot) -> None:
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        receipt = file_one(landing, visit, "1.2.3")
    assert archived(root) == [f"scp_{STUDY}/CT.1.2.3"]
    assert receipt.kind == "stored"
    assert receipt.path == f"site/archive/scp_{STUDY}/CT.1.2.3"
    assert (root.path / receipt.path).stat().st_size == receipt.size
    assert (root.path / receipt.path).stat().st_mode & 0o077 == 0
    assert [r for _, _, r in read_journals(root, {})] == [receipt]
    assert [p.name for p in root.arrived.iterdir()] == [f"SCANNER FIONA 10.0.0.1 scp_{STUDY}"]


def test_the_same_data_set_is_a_repeat_whatever_its_meta(root: DataRoot) -> None:
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        file_one(landing, visit, "1.2.3")
        before = (root.archive / f"scp_{STUDY}" / "CT.1.2.3").read_bytes()
        receipt = file_one(landing, visit, "1.2.3", part10(data_set("1.2.3"), "1.2.3", pad=7))
    assert receipt.kind == "repeat"
    assert receipt.path.endswith("CT.1.2.3")
    assert (root.path / receipt.path).read_bytes() == before
    assert not list(root.conflicts.iterdir())


def test_a_repeat_has_the_size_of_the_file_that_is_there(root: DataRoot) -> None:
    contents = [part10(data_set("1.2.3", pixels=b"ab" * n), "1.2.3") for n in (1, 2)]
    longer = [part10(data_set("1.2.3", pixels=b"ab" * n), "1.2.3", sop_class="") for n in (1, 2)]
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        receipts = [file_one(landing, visit, "1.2.3", content) for content in contents + longer]
    assert [receipt.kind for receipt in receipts] == ["stored", "conflict", "repeat", "repeat"]
    assert [receipt.size for receipt in receipts] == [len(contents[0]), len(contents[1])] * 2


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_another_data_set_is_kept_aside_also_under_another_modality(root: DataRoot, modality: str) -> None:
    other = part10(data_set("1.2.3", pixels=b"other!", modality=modality), "1.2.3")
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        first = file_one(landing, visit, "1.2.3")
        receipt = file_one(landing, visit, "1.2.3", other, modality=modality)
        again = file_one(landing, visit, "1.2.3", other, modality=modality)
    assert (first.kind, receipt.kind, again.kind) == ("stored", "conflict", "repeat")
    assert again.path == receipt.path
    kept = root.path / receipt.path
    assert kept.parent == root.conflicts / STUDY
    assert kept.read_bytes() == other
    reason = json.loads(kept.with_suffix(".json").read_text())
    assert reason["code"] == "conflict"
    assert reason["archived"] == first.path
    assert "Planted" not in kept.with_suffix(".json").read_text()
    assert archived(root) == [f"scp_{STUDY}/CT.1.2.3"]


def test_another_transfer_syntax_is_a_conflict(root: DataRoot) -> None:
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        file_one(landing, visit, "1.2.3")
        other = part10(data_set("1.2.3"), "1.2.3", syntax="1.2.840.10008.1.2.4.70")
        assert file_one(landing, visit, "1.2.3", other).kind == "conflict"


def test_one_instance_in_two_studies_is_two_files(root: DataRoot) -> None:
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        kinds = [file_one(landing, visit, "1.2.3", study=study).kind for study in ("1.1", "1.2")]
    assert kinds == ["stored", "stored"]
    assert archived(root) == ["scp_1.1/CT.1.2.3", "scp_1.2/CT.1.2.3"]


@pytest.mark.parametrize(
    ("modality", "sop_class", "prefix"),
    [
        ("CT", MR, "CT"),
        ("../X", MR, "MR"),
        ("ct", CT, "CT"),
        ("", "1.2.840.10008.5.1.4.1.1.4.1", "MR"),
        ("", "1.2.840.10008.5.1.4.1.1.88.33", "SR"),
        ("A" * 17, "1.2.3.4", "OT"),
        ("", "1.2.840.10008.5.1.4.1.1.7", "OT"),
    ],
)
def test_the_prefix_is_always_safe(modality: str, sop_class: str, prefix: str) -> None:
    assert archive_prefix(uids("1.2", modality=modality, sop_class=sop_class)) == prefix


def test_unsound_uids_never_reach_a_path(root: DataRoot) -> None:
    with Landing(root) as landing, landing.visit(CALLER) as visit, pytest.raises(UnreadableDicom):
        file_one(landing, visit, "1.2.3", study="../../x")
    assert archived(root) == []


def test_names_made_by_others_are_seen(root: DataRoot) -> None:
    with Landing(root) as one, Landing(root) as two, one.visit(CALLER) as a, two.visit(CALLER) as b:
        assert file_one(one, a, "1.2.1").kind == "stored"
        assert file_one(two, b, "1.2.1", modality="MR").kind == "repeat"
        assert file_one(two, b, "1.2.2").kind == "stored"
        assert file_one(one, a, "1.2.2", modality="MR").kind == "repeat"
    assert archived(root) == [f"scp_{STUDY}/CT.1.2.1", f"scp_{STUDY}/CT.1.2.2"]


def test_a_file_that_stands_there_unknown_is_never_replaced(root: DataRoot) -> None:
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        file_one(landing, visit, "1.2.1")
        alien = root.archive / f"scp_{STUDY}" / "CT.1.2.2"
        alien.write_bytes(b"somebody else's")
        assert file_one(landing, visit, "1.2.2").kind == "conflict"
        assert alien.read_bytes() == b"somebody else's"


def test_a_study_folder_that_was_retired_comes_back(root: DataRoot) -> None:
    folder = root.archive / f"scp_{STUDY}"
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        file_one(landing, visit, "1.2.1")
        (folder / "CT.1.2.1").unlink()
        folder.rmdir()
        assert file_one(landing, visit, "1.2.1").kind == "stored"
        assert file_one(landing, visit, "1.2.2").kind == "stored"
    assert archived(root) == [f"scp_{STUDY}/CT.1.2.1", f"scp_{STUDY}/CT.1.2.2"]


def _race(path: Path, number: int, results: multiprocessing.Queue[list[str]]) -> None:
    root = DataRoot(path)
    kinds: list[str] = []
    with Landing(root) as landing, landing.visit(Caller(f"P{number}", "FIONA", "local")) as visit:
        for instance in range(40):
            name = f"1.2.{instance}"
            modality = "CT" if number % 2 else "MR"
            content = part10(data_set(name, pixels=bytes([number]) * 8), name)
            kinds.append(file_one(landing, visit, name, content, modality=modality).kind)
    results.put(kinds)


def test_processes_that_race_lose_nothing(root: DataRoot) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[list[str]] = context.Queue()
    processes = [context.Process(target=_race, args=(root.path, n, results)) for n in range(4)]
    for process in processes:
        process.start()
    kinds = [kind for _ in processes for kind in results.get(timeout=60)]
    for process in processes:
        process.join(10)
        assert process.exitcode == 0
    assert kinds.count("stored") == 40
    assert kinds.count("conflict") == 120
    assert len(list((root.archive / f"scp_{STUDY}").iterdir())) == 40
    assert len(list((root.conflicts / STUDY).glob("*.dcm"))) == 120
    assert len(list(read_journals(root, {}))) == 160


def test_threads_that_race_lose_nothing(root: DataRoot) -> None:
    receipts: list[Receipt] = []
    with Landing(root) as landing:

        def send(number: int) -> None:
            with landing.visit(Caller(f"T{number % 2}", "FIONA", "local")) as visit:
                receipts.extend([file_one(landing, visit, f"1.2.{i}") for i in range(30)])

        threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(r.kind for r in receipts) == ["repeat"] * 90 + ["stored"] * 30
    key = lambda r: (r.time, r.calling_ae, r.SOPInstanceUID, r.kind)  # noqa: E731
    assert sorted((r for _, _, r in read_journals(root, {})), key=key) == sorted(receipts, key=key)


def test_the_order_of_flushes_is_what_durability_needs(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    rename, append = landing_files._renameat2, Journal.append

    def watched_sync(fd: int) -> None:
        target = Path(f"/proc/self/fd/{fd}").readlink()
        kind = "line" if " scp_" in target.name else target.name
        steps.append("sync " + ("file" if target.suffix == ".part" else kind))

    def watched_rename(source_fd: int, source: str, target_fd: int, target: str) -> int:
        steps.append("rename")
        return rename(source_fd, source, target_fd, target)

    def watched_append(journal: Journal, receipt: Receipt, written: Callable[[], None]) -> None:
        steps.append("line")
        append(journal, receipt, written)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "fdatasync", watched_sync)
    monkeypatch.setattr(landing_files, "_renameat2", watched_rename)
    monkeypatch.setattr(Journal, "append", watched_append)
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        steps.clear()
        file_one(landing, visit, "1.2.1")
        first, steps[:] = list(steps), []
        file_one(landing, visit, "1.2.2")
    assert steps[:3] == ["sync file", "rename", "line"]
    assert sorted(steps[3:]) == ["sync line", f"sync scp_{STUDY}"]
    assert first.index("sync file") < first.index("rename") < first.index("line")
    assert "sync .arrived" in first[: first.index("line")]
    assert "sync archive" in first[: first.index("line")]


def test_without_renameat2_links_do_the_same(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing_files, "_renameat2", lambda *ends: 38)  # ENOSYS
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        assert file_one(landing, visit, "1.2.1").kind == "stored"
        (root.archive / f"scp_{STUDY}" / "CT.1.2.2").write_bytes(b"x")
        assert file_one(landing, visit, "1.2.2").kind == "conflict"
    assert (root.archive / f"scp_{STUDY}" / "CT.1.2.1").stat().st_nlink == 1


def test_the_reserve_is_kept(root: DataRoot) -> None:
    with Landing(root, reserve_mb=2**40) as landing, pytest.raises(StorageFull, match="reserve_mb"):
        landing.new_file()


def test_a_line_that_could_not_be_written_is_written_by_the_repeat(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(journal: Journal, receipt: Receipt, written: Callable[[], None]) -> None:
        raise StorageFull("no room")

    with Landing(root) as landing, landing.visit(CALLER) as visit:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", full)
            with pytest.raises(StorageFull):
                file_one(landing, visit, "1.2.1")
        assert file_one(landing, visit, "1.2.1").kind == "stored"
        assert file_one(landing, visit, "1.2.1").kind == "repeat"
    assert [r.kind for _, _, r in read_journals(root, {})] == ["stored", "repeat"]


def test_no_unfinished_file_survives_its_process(root: DataRoot) -> None:
    pid = os.fork()
    if pid == 0:
        landing = Landing(root)
        landing.new_file().write([b"half"])
        os._exit(0)
    os.waitpid(pid, 0)
    left = list((root.archive / ".incoming").rglob("*.part"))
    assert len(left) == 1
    with Landing(root) as living:
        new = living.new_file()
        with Landing(root):
            assert new.path.exists()
        new.discard()
        assert not left[0].exists()
    assert archived(root) == []


def test_the_plain_face_files_one_object(root: DataRoot) -> None:
    with Landing(root) as landing:
        new = landing.new_file()
        new.write([part10(data_set("1.2.9"), "1.2.9")])
        new.commit()
        assert landing.file_object(new.path, uids("1.2.9"), EXPLICIT, CALLER).kind == "stored"


def test_prefixes_announced_by_others_are_looked_under(root: DataRoot) -> None:
    """Two processes place files of two modalities in turn: each instance is there once, whoever was first."""
    series = {"CT": CT, "MR": MR}
    with Landing(root) as one, Landing(root) as two, one.visit(CALLER) as a, two.visit(CALLER) as b:
        file_one(one, a, "1.2.1")  # one knows CT alone
        data = {
            modality: part10(data_set("1.2.2", modality=modality, sop_class=sop_class), "1.2.2")
            for modality, sop_class in series.items()
        }
        assert file_one(two, b, "1.2.2", data["MR"], modality="MR", sop_class=MR).kind == "stored"
        assert file_one(one, a, "1.2.2", data["CT"]).kind == "conflict"
        assert file_one(one, a, "1.2.2", data["MR"], modality="MR", sop_class=MR).kind == "repeat"
        assert file_one(one, a, "1.2.3").kind == "stored"
        assert file_one(two, b, "1.2.3").kind == "repeat"
    assert archived(root) == [f"scp_{STUDY}/{name}" for name in ("CT.1.2.1", "CT.1.2.3", "MR.1.2.2")]
    (names,) = root.locks.glob("*.names")
    assert names.read_text() == "CT.1.2.1\nMR.1.2.2\n", "nothing more is said of a prefix"
