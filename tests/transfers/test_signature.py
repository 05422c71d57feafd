"""Signed packages: integrity without, origin with the project's public key; the older form is still read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fiona_dagster.cli.packages import verify
from fiona_dagster.cli.projects import project
from fiona_dagster.errors import KeyMismatch, UsageError
from fiona_dagster.transfers import zipformat
from fiona_dagster.transfers.package import build_package
from fiona_dagster.transfers.signature import SigningKey, public_pem, read_public
from fiona_dagster.transfers.verify import read_manifest, verify_package
from fiona_dagster.transfers.zipformat import Entry
from tests.site import PROJECT, Site, running_site
from tests.transfers.test_package import CONTENT, HEAD, KEY, _build, _files

OTHER = SigningKey(b"o" * 32)


def test_only_the_right_key_proves_the_origin(tmp_path: Path) -> None:
    info = _build(tmp_path)

    assert verify_package(info.path, KEY.public) == []
    assert verify_package(info.path, OTHER.public) == [
        "archive comment: signed with another key than the one given"
    ]
    assert read_manifest(info.path)["signing_key"] == KEY.public.hex()


def test_whoever_rewrites_everything_is_found_by_the_key_alone(tmp_path: Path) -> None:
    forged = _build(tmp_path, {"a": b"forged"}, key=OTHER).path

    assert verify_package(forged) == []
    assert verify_package(forged, KEY.public)


def test_a_borrowed_key_or_signature_is_found(tmp_path: Path) -> None:
    """The forger names the right key in the manifest, and takes a signature that it once made."""

    class Borrowed(SigningKey):
        def sign(self, digest: bytes) -> bytes:
            return KEY.sign(hashlib.sha256(b"another package").digest())

    thief = Borrowed(b"t" * 32)
    thief.public = KEY.public
    forged = _build(tmp_path, {"a": b"forged"}, key=thief).path

    for key in (None, KEY.public):
        assert verify_package(forged, key) == ["archive comment: the signature does not match"]


def test_the_key_is_read_back_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for content in (public_pem(KEY.public), KEY.public.hex(), KEY.public.hex().upper() + "\n"):
        file.write_text(content)
        assert read_public(file) == KEY.public
    for content in ("", "abc", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        file.write_text(content)
        with pytest.raises(UsageError, match="no Ed25519 public key"):
            read_public(file)
    with pytest.raises(UsageError, match="can't be read"):
        read_public(tmp_path / "none")


def test_openssl_agrees_about_the_signature(tmp_path: Path) -> None:
    data = _build(tmp_path).path.read_bytes()
    digest = hashlib.sha256(data[: -zipformat.SIGNED.seal_length]).digest()
    (tmp_path / "pem").write_text(public_pem(KEY.public))
    (tmp_path / "message").write_bytes(b"FIONA package 2\n" + digest)
    (tmp_path / "signature").write_bytes(bytes.fromhex(data[-128:].decode()))

    command = "openssl pkeyutl -verify -pubin -inkey pem -rawin -in message -sigfile signature"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def _old_package(folder: Path) -> Path:
    """A package as it was written before signatures."""
    report = b"{}\n"
    content = dict(sorted({"P/MR/1/1.dcm": b"one", "P/MR/1/2.dcm": b"two"}.items()))
    files = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in {"report.json": report, **content}.items()
    ]
    manifest = json.dumps({"format": "fiona-package-1", **HEAD, "files": files}).encode()
    whole, entries = b"", []
    for name, data in {"manifest.json": manifest, "report.json": report, **content}.items():
        entry = Entry(name, len(data), zlib.crc32(data), len(whole))
        entries.append(entry)
        whole += zipformat.local_header(entry) + data
    directory = b"".join(map(zipformat.directory_header, entries))
    whole += directory + zipformat.end_records(len(entries), len(whole), len(directory), zipformat.UNSIGNED)
    whole += b"FIONA package 1 sha256:"
    path = folder / "old.zip"
    path.write_bytes(whole + hashlib.sha256(whole).hexdigest().encode())
    return path


def test_packages_of_format_1_are_still_verified_and_called_unsigned(tmp_path: Path) -> None:
    old = _old_package(tmp_path)
    assert verify_package(old) == []
    assert verify_package(old, KEY.public) == ["archive comment: a package of format 1, which is not signed"]
    done = CliRunner().invoke(verify, [str(old)])
    assert (done.exit_code, "OK, 3 files" in done.output, "not signed (format 1)" in done.output) == (
        0,
        True,
        True,
    )

    good = old.read_bytes()
    for position in range(len(good)):
        old.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        assert verify_package(old), position


@settings(max_examples=150, deadline=None)
@given(where=st.integers(min_value=0), bits=st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_found_and_a_file_s_own_is_named(
    tmp_path_factory: pytest.TempPathFactory, where: int, bits: int
) -> None:
    info = _build(tmp_path_factory.mktemp("flip"))
    good = info.path.read_bytes()
    where %= len(good)
    for kind in ("md5", "sha256"):
        info.path.with_name(f"{info.path.name}.{kind}").unlink()
    with info.path.open("rb") as stream:
        entries, _ = zipformat.read_directory(stream, len(good))
    info.path.write_bytes(good[:where] + bytes([good[where] ^ bits]) + good[where + 1 :])

    problems = verify_package(info.path, KEY.public)

    assert problems
    for entry in entries:
        if entry.offset <= where < entry.end:
            assert [problem.partition(":")[0] for problem in problems] == [entry.name]


_BUILD = """
import hashlib, os, sys
from pathlib import Path
os.umask(int(sys.argv[2], 8))
from tests.transfers.test_package import HEAD, KEY, CONTENT, _files, build_package
files, expected = _files(Path(sys.argv[1]), CONTENT)
if sys.argv[2] == "0": files.reverse()
build_package(files, Path(sys.argv[1]) / "study.zip", HEAD, expected, key=KEY, report={"b": 1, "a": 2})
"""


def test_two_machines_make_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for zone, umask, locale, seed in (("UTC", "077", "C", "0"), ("Pacific/Apia", "0", "C.UTF-8", "4711")):
        folder = tmp_path / f"on {zone.replace('/', ' ')}" / seed
        folder.mkdir(parents=True)
        environment = {
            **os.environ, "TZ": zone, "LC_ALL": locale, "PYTHONHASHSEED": seed, "HOME": str(folder),
            "USER": f"user{seed}",
        }  # fmt: skip
        subprocess.run(
            [sys.executable, "-c", _BUILD, str(folder), umask],
            env=environment, cwd=Path(__file__).parents[2], check=True,
        )  # fmt: skip
        made.append({path.name: path.read_bytes() for path in folder.glob("study.zip*")})
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.glob("study.zip*"))
    assert made[0] == made[1]
    assert sorted(made[0]) == ["study.zip", "study.zip.md5", "study.zip.sha256"]


def test_a_repeated_name_in_the_manifest_is_found(tmp_path: Path) -> None:
    files, expected = _files(tmp_path, CONTENT)
    info = build_package(files, tmp_path / "x.zip", {**HEAD, "note": "x"}, expected, key=KEY)
    assert verify_package(info.path) == []
    assert len({item["name"] for item in read_manifest(info.path)["files"]}) == len(CONTENT) + 1


def test_the_command_line_gives_the_key_out_and_checks_with_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = site.root.path / site.packaged()[1].path
    monkeypatch.setenv("FIONA_DATA", str(site.root.path))
    shown = CliRunner().invoke(project, ["key", PROJECT, "--public"])
    assert shown.exit_code == 0
    key = tmp_path / "heart.pem"
    key.write_text(shown.output)
    monkeypatch.delenv("FIONA_DATA")

    proven = CliRunner().invoke(verify, [str(package), "--key", str(key), "--json"])
    unproven = CliRunner().invoke(verify, [str(package)])
    key.write_text(OTHER.public.hex())
    wrong = CliRunner().invoke(verify, [str(package), "--key", str(key)])

    answer = json.loads(proven.stdout)
    assert (proven.exit_code, answer["ok"], answer["origin"], answer["format"]) == (
        0, True, "proven", "fiona-package-2",
    )  # fmt: skip
    assert (unproven.exit_code, "only --key proves who made it" in unproven.stdout) == (0, True)
    assert (wrong.exit_code, "another key" in wrong.stdout) == (1, True)
    secret = (site.root.secrets / f"{PROJECT}.key").read_text().strip()
    assert secret not in shown.output
    assert secret.encode() not in package.read_bytes()


def test_two_gateways_make_the_same_package_of_the_same_study(tmp_path: Path) -> None:
    """Another folder, another order of arrival, and everything in between: only the key is the same."""
    made = []
    for name, numbers in (("here", (1, 2)), ("there", (2, 1))):
        with running_site(tmp_path / name) as site:
            key = site.root.secrets / f"{PROJECT}.key"
            key.write_text("5a" * 32)
            key.chmod(0o600)
            site.receive(*numbers)
            site.ask()
            site.poll()
            site.make_package()
            made.append({path.name: path.read_bytes() for path in (site.root.outbox / PROJECT).iterdir()})
    assert made[0] == made[1]
    assert len(made[0]) >= 3


def test_no_key_is_made_in_place_of_a_lost_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIONA_DATA", str(site.root.path))
    assert CliRunner().invoke(project, ["key", PROJECT, "--public"]).exit_code == 0
    (site.root.secrets / f"{PROJECT}.key").unlink()
    assert isinstance(CliRunner().invoke(project, ["key", PROJECT, "--public"]).exception, KeyMismatch)
