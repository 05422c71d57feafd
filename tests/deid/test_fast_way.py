"""The fast way gives the very bytes, reports and refusals of the exact way, or leaves the object to it."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiona_dagster.deid import (
    Deidentifier,
    copies,
    deidentify_study,
    identifiers_used,
    passage,
    verify_outputs,
)
from fiona_dagster.deid.copies import Copy
from fiona_dagster.deid.elements import FileRange
from fiona_dagster.deid.files import MAPPED_FROM, viewed
from fiona_dagster.deid.rows import Unsure
from fiona_dagster.deid.writing import part_of, write
from fiona_dagster.errors import FionaError, OriginalUnavailable, RefusedDicom
from tests.deid import phantoms
from tests.deid.conftest import Make
from tests.deid.phantoms import EXPLICIT, IMPLICIT

OPTIONS = [
    (),
    ("retain_long_modified_dates", "clean_descriptors", "retain_safe_private"),
    ("retain_long_full_dates", "retain_uids", "clean_structured_content", "retain_institution_identity"),
]


def content(copy: Copy, source: int) -> bytes:
    return b"".join(
        os.pread(source, piece.length, piece.start) if isinstance(piece, FileRange) else bytes(piece)
        for piece in copy.pieces
    )


def outcome(copy: Copy, source: int) -> tuple[object, ...]:
    tally = copy.tally
    return (content(copy, source), copy.instance, copy.study, copy.held, +tally.actions, +tally.tags)


def both(fast: Deidentifier, exact: Deidentifier, path: Path) -> str:
    """Compares both ways for one file: ``same``, ``left`` to the exact way, or ``refused`` by both."""
    source = os.open(path, os.O_RDONLY)
    try:
        try:
            one: object = outcome(fast.fast.copy(source, fast.project), source)
        except Unsure:
            return "left"
        except FionaError as error:
            one = str(error)
        try:
            with exact.exact_copy(path) as copy:
                other: object = outcome(copy, source)
        except FionaError as error:
            other = str(error)
        assert one == other, path
        return "refused" if isinstance(one, str) else "same"
    finally:
        os.close(source)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_planted_objects(make: Make, tmp_path: Path, syntax: str, options: tuple[str, ...]) -> None:
    sources = [phantoms.write(phantoms.image(n, syntax), tmp_path / f"{n}.dcm") for n in range(1, 5)]
    other = phantoms.image(7, syntax)
    other.PatientName, other.StudyInstanceUID = "Other^Person", f"{phantoms.ROOT}.8"
    other.SeriesDescription = "of Quisling"  # another person's name
    sources.append(phantoms.write(other, tmp_path / "other.dcm"))
    fast, exact = make(*options), make(*options)

    assert [both(fast, exact, path) for path in (*sources, *sources)] == ["same"] * 10


@pytest.mark.parametrize("options", OPTIONS)
def test_what_identifies_is_left_to_the_exact_way(
    make: Make, tmp_path: Path, options: tuple[str, ...]
) -> None:
    ds = phantoms.image()
    ds.Manufacturer = "made for Quisling"
    inner = pydicom.Dataset()
    inner.CodeMeaning = f"copy of {phantoms.SERIES}"
    deep = phantoms.image(2)
    deep.AnatomicRegionSequence = [inner]
    deidentifier = make(*options)

    for number, data_set in enumerate((phantoms.image(9), ds, deep)):
        path = phantoms.write(data_set, tmp_path / f"{number}.dcm")
        assert both(deidentifier, make(*options), path) == ("left" if number else "same")
        report = deidentifier.file(path, tmp_path / f"out{number}.dcm")
        written = (tmp_path / report.name).read_bytes()
        assert b"Quisling" not in written
        assert options[1:2] == ("retain_uids",) or phantoms.SERIES.encode() not in written


def test_every_way_of_length(make: Make, tmp_path: Path) -> None:
    """Undefined lengths of sequences and items are written out, empty items stay, UN is understood."""
    ds = phantoms.image()
    empty, code, inner = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    for item in (code, inner):
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "DCM", "one"
    code.AnatomicRegionModifierSequence = [pydicom.Dataset(), inner]
    ds.AnatomicRegionSequence = [empty, code]
    ds["AnatomicRegionSequence"].is_undefined_length = True
    code["AnatomicRegionModifierSequence"].is_undefined_length = True
    code.is_undefined_length_sequence_item = True
    ds.add_new(0x00081140, "UN", b"")
    path = phantoms.write(ds, tmp_path / "in.dcm")

    assert both(make(), make(), path) == "same"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes(make: Make, tmp_path: Path, data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from([EXPLICIT, IMPLICIT]))
    options = data.draw(st.sampled_from(OPTIONS))
    path = tmp_path / "in.dcm"
    whole = bytearray(phantoms.write(phantoms.planted(phantoms.Canaries(), syntax), path).read_bytes())
    small = bytearray(phantoms.write(phantoms.image(1, syntax), path).read_bytes())
    damaged = data.draw(st.sampled_from([whole, small]))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(132, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(200, len(damaged)))])
    fast = make(*options)

    for _ in range(2):  # also with what it remembers
        both(fast, make(*options), path)


@pytest.mark.shared
def test_visible_files(make: Make, shared: Path) -> None:
    paths = [p for p in sorted((shared / "data" / "visible").rglob("*")) if p.is_file()]
    deidentifiers = [(make(*options), make(*options)) for options in OPTIONS[:2]]

    for fast, exact in deidentifiers:
        found = Counter(both(fast, exact, path) for path in paths)
        assert found["same"] > 450, found


def test_a_file_that_shrinks_while_it_is_copied_leaves_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(bytes(100))
    descriptor = os.open(source, os.O_RDONLY)

    with pytest.raises(OriginalUnavailable, match="shorter"), part_of(target) as part:
        write(part, [b"header", FileRange(50, 51)], descriptor)
    os.close(descriptor)

    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_threads_take_turns(make: Make, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of the person at hand must not meet the object of another thread."""
    sources = [phantoms.write(phantoms.image(n), tmp_path / f"{n}.dcm") for n in range(1, 7)]
    shared, at_it, most = make(), [0], [0]
    copy = shared.fast.copy

    def watched(*args: Any) -> Copy:
        at_it[0] += 1
        most[0] = max(most[0], at_it[0])
        time.sleep(0.01)
        made = copy(*args)
        at_it[0] -= 1
        return made

    monkeypatch.setattr(shared.fast, "copy", watched)
    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(lambda source: shared.file(source, out), sources))

    assert most == [1]
    assert len({report.name for report in made}) == len(list(out.iterdir())) == 6


@pytest.mark.parametrize("size", [16, 300, 600])
def test_a_file_that_shrinks_while_its_pixels_are_looked_at_has_no_copy(
    make: Make, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    ds = phantoms.image()
    ds.Rows = 4  # there is more than the picture
    source = phantoms.write(ds, tmp_path / "in.dcm")

    def shrunk(descriptor: int) -> object:
        os.truncate(source, size)
        return viewed(descriptor)

    monkeypatch.setattr(copies, "viewed", shrunk)

    with pytest.raises(OriginalUnavailable, match="shorter"):
        make().file(source, out)

    assert list(out.iterdir()) == []


BROKEN = """
import os, pathlib, sys
from fiona_dagster.deid import *
from fiona_dagster.deid import pixels
source, out = map(pathlib.Path, sys.argv[1:])
clean = pixels.clean
def shrunk(*args):
    os.truncate(source, 4096)
    return clean(*args)
pixels.clean = shrunk
Deidentifier(basic_profile_only("P"), ProjectKey("P", bytes(32)), Assignment("P", "S", "E")).file(source, out)
"""


def test_pages_of_a_large_file_that_can_not_be_read_leave_nothing_under_a_name(
    tmp_path: Path, out: Path
) -> None:
    """The kernel ends the process; what it wrote has no name that anybody takes for a copy."""
    ds = phantoms.image()
    ds.Rows = ds.Columns = 2048
    ds.PixelData = bytes(MAPPED_FROM + 4096)
    source = phantoms.write(ds, tmp_path / "in.dcm")

    done = subprocess.run(
        [sys.executable, "-c", BROKEN, source, out], capture_output=True, text=True, check=False
    )

    assert done.returncode in (-signal.SIGBUS, 1), done.stderr
    assert [path.name for path in out.iterdir() if path.suffix != ".part"] == []


def test_where_the_kernel_can_not_copy_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(bytes(range(256)) * 4096)
    descriptor = os.open(source, os.O_RDONLY)

    with part_of(target) as part:
        size = write(part, [b"ab", FileRange(3, 1 << 19), b"c" * 300_000, b"d"], descriptor)
    os.close(descriptor)

    assert size == target.stat().st_size
    assert target.read_bytes() == b"ab" + source.read_bytes()[3 : 3 + (1 << 19)] + b"c" * 300_000 + b"d"


def test_a_disk_in_trouble_says_nothing_about_a_file(
    make: Make, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Projects may leave out what can't be read: that must not be what a disk fails to give."""
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    for name in ("open", "pread"):
        with monkeypatch.context() as broken:
            broken.setattr(os, name, fail)
            with pytest.raises(OriginalUnavailable, match="Input/output"):
                deidentify_study(make(), [source], out)


def test_where_the_kernel_copies_the_original_is_at_fault_if_it_can_not_be_read(
    make: Make, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")
    read = os.pread

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "copy_file_range", broken)
    assert deidentify_study(make(), [source], out).files, "it can be read in another way"

    def header_only(descriptor: int, size: int, at: int) -> bytes:
        return read(descriptor, size, at) if not at else bytes(broken())

    monkeypatch.setattr(os, "pread", header_only)
    with pytest.raises(OriginalUnavailable, match="Input/output"):
        deidentify_study(make(), [source], out)


@pytest.mark.parametrize(
    "number", [errno.ENOENT, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTDIR, errno.EMFILE]
)
def test_an_original_that_is_not_given_ends_the_search_too(
    make: Make, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Who does not know what one original says can't say that it is nowhere."""
    sources = [phantoms.write(phantoms.image(n), tmp_path / f"{n}.dcm") for n in (1, 2)]
    assert len(deidentify_study(make(), sources, out).files) == 2
    opened = io.open

    def fail(path: Any, *rest: Any, **more: Any) -> Any:
        if path == sources[1]:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *rest, **more)

    monkeypatch.setattr(io, "open", fail)
    for search in (verify_outputs, lambda s, _, d: identifiers_used(s, d)):
        with pytest.raises(OriginalUnavailable) as raised:
            search(sources, out, make())
        assert os.strerror(number) in str(raised.value)
        assert str(tmp_path) not in str(raised.value), "names of files may identify"


def test_an_original_that_became_shorter_is_no_damaged_object(
    make: Make, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")
    read = os.pread
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    with pytest.raises(OriginalUnavailable, match="shorter"):
        deidentify_study(make(), [source], out)
    monkeypatch.setattr(os, "pread", lambda fd, size, at: read(fd, size - 10, at))
    source = phantoms.write(phantoms.image(syntax=phantoms.BIG), tmp_path / "big.dcm")
    with pytest.raises(OriginalUnavailable, match="shorter"):
        deidentify_study(make(), [source], out)


def test_a_media_directory_with_uids_is_refused(make: Make, tmp_path: Path) -> None:
    ds = phantoms.image(sop_class="1.2.840.10008.1.3.10")

    with pytest.raises(RefusedDicom, match="DICOMDIR"):
        make().file(phantoms.write(ds, tmp_path / "in.dcm"), tmp_path / "out.dcm")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_sequences_that_are_never_alike_are_not_remembered(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str, options: tuple[str, ...]
) -> None:
    """One item a frame, as in multi-frame objects; headers of large files are read in larger pieces."""
    monkeypatch.setattr(passage, "_UNLIKE", 5)
    monkeypatch.setattr(copies, "_LARGE", 1)
    ds = phantoms.image(1, syntax, "1.2.840.10008.5.1.4.1.1.4.1")
    ds.PerFrameFunctionalGroupsSequence = [pydicom.Dataset() for _ in range(40)]
    for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        content, position, reference = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        content.FrameAcquisitionDateTime, content.StackID = f"20180504101112.{number:06}", str(number)
        position.ImagePositionPatient = [1.0, 2.0, number]
        reference.ReferencedSOPClassUID = phantoms.CT
        reference.ReferencedSOPInstanceUID = f"{phantoms.ROOT}.9.{number}"
        frame.FrameContentSequence, frame.PlanePositionSequence = [content], [position]
        frame.ReferencedImageSequence = [reference]
    path = phantoms.write(ds, tmp_path / "in.dcm")
    fast = make(*options)

    assert [both(fast, make(*options), path) for _ in range(2)] == ["same"] * 2

    person = fast.fast.rewriter._last
    assert person is not None
    frames = person.plan.inside(0x52009230)
    assert frames.unlike[0x00209113] > 5
    reference.ReferencedSOPClassUID = "1.2.3.4.5.6.7.8.9"
    position.ImagePositionPatient = ["1", "2", "19530704"]  # the day of birth
    assert both(fast, make(*options), phantoms.write(ds, tmp_path / "in.dcm")) == "left"
