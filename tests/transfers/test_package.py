"""The package: reproducible, gated, and no byte of it can change unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiona_dagster.errors import NotVerified, StorageFull, UsageError
from fiona_dagster.transfers import writing, zipformat
from fiona_dagster.transfers.package import PackageInfo, build_package
from fiona_dagster.transfers.signature import SigningKey
from fiona_dagster.transfers.verify import read_manifest, verify_package

HEAD = {
    "project": "DEMO",
    "participant": "P001",
    "event": "baseline",
    "StudyInstanceUID": "2.25.1234",
    "generation": 0,
    "key_fingerprint": "abcd",
}
KEY = SigningKey(b"k" * 32)
REPORT = {"replaced": 12, "text": "ok"}
CONTENT = {"b/2.dcm": b"second" * 50, "a/1.dcm": b"first" * 40, "c.dcm": b"", "d.dcm": bytes(range(256))}


def _name(name: str) -> str:
    return f"P001/baseline/MR/001_T1/{name.replace('/', '_')}"


def _files(folder: Path, content: dict[str, bytes]) -> tuple[list[tuple[str, Path]], dict[str, str]]:
    files: list[tuple[str, Path]] = []
    for name, data in content.items():
        path = folder / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        files.append((_name(name), path))
    return files, {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files}


def _build(folder: Path, content: dict[str, bytes] = CONTENT, **more: Any) -> PackageInfo:
    files, expected = _files(folder, content)
    return build_package(
        files, folder / "study.zip", HEAD, expected, **{"key": KEY, "report": REPORT, **more}
    )


def test_package_holds_files_manifest_and_report_and_any_zip_tool_reads_it(tmp_path: Path) -> None:
    info = _build(tmp_path)

    with zipfile.ZipFile(info.path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
        report = json.loads(archive.read("report.json"))
        content = {name: archive.read(name) for name in names[2:]}
        times = {member.date_time for member in archive.infolist()}
    assert names[:2] == ["manifest.json", "report.json"]
    assert names[2:] == sorted(names[2:])
    assert content == {_name(k): v for k, v in CONTENT.items()}
    assert report == {"replaced": 12, "text": "ok"}
    assert times == {(1980, 1, 1, 0, 0, 0)}
    assert {item["name"]: (item["size"], item["sha256"]) for item in manifest["files"][1:]} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in content.items()
    }
    assert HEAD.items() <= manifest.items()
    assert manifest["software"].startswith("fiona-dagster ")
    assert info.files == 4
    assert verify_package(info.path) == []


def test_checksum_files_are_read_by_the_usual_tools(tmp_path: Path) -> None:
    info = _build(tmp_path)

    for kind in ("md5", "sha256"):
        done = subprocess.run(
            [f"{kind}sum", "-c", f"study.zip.{kind}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "study.zip: OK\n")
    assert hashlib.sha256(info.path.read_bytes()).hexdigest() == info.sha256
    assert hashlib.md5(info.path.read_bytes(), usedforsecurity=False).hexdigest() == info.md5
    assert info.path.stat().st_size == info.size
    assert info.path.stat().st_mode & 0o777 == 0o600


def test_same_input_gives_same_bytes_in_any_order(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    first = _build(tmp_path / "x")
    second = _build(tmp_path / "y", dict(reversed(CONTENT.items())))

    assert first.path.read_bytes() == second.path.read_bytes()


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    info = _build(tmp_path)
    for kind in ("md5", "sha256"):
        (tmp_path / f"study.zip.{kind}").unlink()
    good = info.path.read_bytes()
    broken = tmp_path / "broken.zip"

    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 1 << (position % 8)
        broken.write_bytes(changed)
        assert verify_package(broken), f"byte {position} of {len(good)}"


def test_the_changed_file_is_named(tmp_path: Path) -> None:
    info = _build(tmp_path)
    data = info.path.read_bytes()
    where = data.index(b"firstfirst")
    info.path.write_bytes(data[:where] + b"F" + data[where + 1 :])

    problems = verify_package(info.path)

    assert problems[0] == "P001/baseline/MR/001_T1/a_1.dcm: changed"
    assert [p for p in problems if p.startswith("P001")] == problems[:1]
    assert len(problems) == 3  # and both files beside it


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"x" + data,
        lambda data: data + b"x",
        lambda data: data[:-1],
        lambda data: data[:100],
        lambda data: b"",
        lambda data: data + data,
        lambda data: data.replace(b"a_1.dcm", b"../.dcm"),
        lambda data: data.replace(b"a_1.dcm", b"a_9.dcm"),
        lambda data: data.replace(b'"P001"', b'"P002"'),
        lambda data: b"not a zip" * 200,
    ],
)
def test_other_damage_is_found(tmp_path: Path, change: Any) -> None:
    info = _build(tmp_path)
    info.path.write_bytes(change(info.path.read_bytes()))

    assert verify_package(info.path)


def test_an_archive_rebuilt_by_another_tool_is_refused(tmp_path: Path) -> None:
    info = _build(tmp_path)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(info.path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.comment = source.comment

    assert verify_package(other)


@pytest.mark.parametrize("name", ["zz/more.dcm", "P001/baseline/MR/001_T1/a_1.dcm", "0000.txt"])
def test_an_entry_beyond_the_manifest_is_found_in_our_own_form_too(tmp_path: Path, name: str) -> None:
    """Whoever knows the form and not the key: well-formed headers, end records that fit, the seal kept."""
    info = _build(tmp_path)
    for kind in ("md5", "sha256"):
        (tmp_path / f"study.zip.{kind}").unlink()
    good = info.path.read_bytes()
    with info.path.open("rb") as stream:
        entries, start = zipformat.read_directory(stream, len(good))
    seal = good[-zipformat.SIGNED.comment_length :]
    more = zipformat.Entry(name, 4, zlib.crc32(b"more"), start)
    content = good[:start] + zipformat.local_header(more) + b"more"
    for chosen, body in (([*entries, more], content), (entries[:-1], good[: entries[-1].offset])):
        directory = b"".join(map(zipformat.directory_header, chosen))
        end = zipformat.end_records(len(chosen), len(body), len(directory))
        info.path.write_bytes(body + directory + end + seal)
        assert verify_package(info.path)
    for position in range(0, len(good), 5):
        for changed in (good[:position] + b"\0" + good[position:], good[:position] + good[position + 1 :]):
            info.path.write_bytes(changed)
            assert verify_package(info.path), position


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=400), where=st.integers(min_value=0, max_value=3000))
def test_verification_survives_anything(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, where: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    info = _build(folder)
    good = info.path.read_bytes()
    changed = good[:where] + data + good[where + len(data) :]
    info.path.write_bytes(changed)

    assert bool(verify_package(info.path)) == (changed != good)


def test_a_file_that_differs_from_the_record_is_not_packed(tmp_path: Path) -> None:
    files, expected = _files(tmp_path, CONTENT)
    files[0][1].write_bytes(b"changed" * 50)

    with pytest.raises(NotVerified):
        build_package(files, tmp_path / "study.zip", HEAD, expected, key=KEY)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_older_package_stays_when_the_new_one_is_refused(tmp_path: Path) -> None:
    before = _build(tmp_path)
    digest = hashlib.sha256(before.path.read_bytes()).hexdigest()
    files, expected = _files(tmp_path, CONTENT)
    expected[_name("b/2.dcm")] = "0" * 64

    with pytest.raises(NotVerified):
        build_package(files, before.path, HEAD, expected, key=KEY)
    assert hashlib.sha256(before.path.read_bytes()).hexdigest() == digest
    assert verify_package(before.path) == []


def test_large_files_are_hashed_again_while_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "WHOLE", 10)
    monkeypatch.setattr(writing, "CHUNK", 7)
    assert verify_package(_build(tmp_path).path) == []
    files, expected = _files(tmp_path, CONTENT)
    original = writing.PackageWriter._begin

    def swap(self: Any, name: str, size: int, crc: int) -> None:
        if name.endswith("a_1.dcm"):  # between the two readings
            files[1][1].write_bytes(b"FIRST" * 40)
        original(self, name, size, crc)

    monkeypatch.setattr(writing.PackageWriter, "_begin", swap)
    with pytest.raises(NotVerified):
        build_package(files, tmp_path / "new.zip", HEAD, expected, key=KEY)
    assert not list(tmp_path.glob("*new.zip*"))


@pytest.mark.parametrize("missing", ["file", "record", "both"])
def test_the_files_must_be_exactly_those_of_the_record(tmp_path: Path, missing: str) -> None:
    files, expected = _files(tmp_path, CONTENT)
    if missing in ("file", "both"):
        files.pop()
    if missing in ("record", "both"):
        del expected[_name("b/2.dcm")]

    with pytest.raises(NotVerified):
        build_package(files, tmp_path / "study.zip", HEAD, expected, key=KEY)


def test_a_file_given_twice_does_not_stand_in_for_another(tmp_path: Path) -> None:
    files, expected = _files(tmp_path, CONTENT)
    files[0] = files[1]

    with pytest.raises(NotVerified):
        build_package(files, tmp_path / "study.zip", HEAD, expected, key=KEY)


@pytest.mark.parametrize(
    "name",
    ["../x.dcm", "/x.dcm", "a//b", "a/./b", "a\\b", "C:x", "a/..", "", "ä.dcm", "CON", "aux.dcm", "a."],
)
def test_unsafe_names_are_refused(tmp_path: Path, name: str) -> None:
    files, expected = _files(tmp_path, CONTENT)
    expected[name] = expected.pop(files[0][0])
    files[0] = (name, files[0][1])

    with pytest.raises(UsageError):
        build_package(files, tmp_path / "study.zip", HEAD, expected, key=KEY)


@pytest.mark.parametrize("name", ["P001/baseline/MR/001_T1/A_1.dcm", "Manifest.json", "report.json"])
def test_names_that_some_file_systems_confuse_are_refused(tmp_path: Path, name: str) -> None:
    files, expected = _files(tmp_path, CONTENT)
    expected[name] = expected.pop(files[0][0])
    files[0] = (name, files[0][1])

    with pytest.raises(UsageError):
        build_package(files, tmp_path / "study.zip", HEAD, expected, key=KEY)


def test_manifest_needs_its_identities(tmp_path: Path) -> None:
    files, expected = _files(tmp_path, CONTENT)

    with pytest.raises(UsageError, match="key_fingerprint"):
        build_package(
            files, tmp_path / "s.zip", {k: v for k, v in HEAD.items() if k[0] != "k"}, expected, key=KEY
        )


def test_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    files, expected = _files(tmp_path, CONTENT)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        build_package(files, tmp_path / "study.zip", HEAD, expected, key=KEY)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_zip64_fields_are_written_and_read_back(tmp_path: Path) -> None:
    # A sparse file stands for 5 GiB of pixels, so that no test writes them.
    big = zipformat.Entry("a.dcm", 5 << 30, 7, 6 << 30)
    directory = zipformat.directory_header(big)
    sparse = tmp_path / "sparse.zip"
    with sparse.open("wb") as stream:
        stream.seek(6 << 30)
        stream.write(directory)
        stream.write(zipformat.end_records(1, 6 << 30, len(directory)))
        stream.write(b"x" * zipformat.SIGNED.comment_length)

    with sparse.open("rb") as stream:
        assert zipformat.read_directory(stream, sparse.stat().st_size) == ([big], 6 << 30)
    with zipfile.ZipFile(sparse) as archive:
        assert archive.getinfo("a.dcm").file_size == 5 << 30
        assert archive.getinfo("a.dcm").header_offset == 6 << 30
    assert zipformat.local_header(big)[-16:] == (5 << 30).to_bytes(8, "little") * 2


def test_more_than_65535_files_are_written_and_read_back(tmp_path: Path) -> None:
    many = [zipformat.Entry(f"a/{n:06d}.dcm", 0, 0, 0) for n in range(70_000)]
    directory = b"".join(zipformat.directory_header(entry) for entry in many)
    path = tmp_path / "many.zip"
    path.write_bytes(
        directory
        + zipformat.end_records(len(many), 0, len(directory))
        + b"x" * zipformat.SIGNED.comment_length
    )

    with path.open("rb") as stream:
        assert zipformat.read_directory(stream, path.stat().st_size) == (many, 0)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 70_000


def test_manifest_can_be_read_alone(tmp_path: Path) -> None:
    assert read_manifest(_build(tmp_path).path)["participant"] == "P001"
    with pytest.raises(UsageError):
        read_manifest(tmp_path / "none.zip")


def test_progress_ends_at_the_size(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    _build(tmp_path, progress=lambda done, total: seen.append((done, total)))

    assert len(seen) == 4
    assert {total for _, total in seen} == {sum(map(len, CONTENT.values()))}
