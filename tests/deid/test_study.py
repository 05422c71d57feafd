"""The objects of a study together: what one of them tells of the person goes from all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest

from fiona_dagster.deid import Deidentifier, deidentify_study, verify_outputs
from fiona_dagster.errors import OriginalUnavailable, RefusedDicom
from tests.deid import phantoms
from tests.deid.conftest import Make


def study(folder: Path, syntax: str = phantoms.EXPLICIT) -> list[Path]:
    """The first object names the operator of the third; the second belongs to another study."""
    first, second, third = (phantoms.image(number, syntax) for number in (1, 2, 3))
    first.Manufacturer = "made for Wohlgemuth"
    second.Manufacturer = "sold by Wohlgemuth"
    second.StudyInstanceUID = f"{phantoms.ROOT}.8"
    third.OperatorsName, third.Manufacturer = "Wohlgemuth^Ottilie", "ACME"
    return [phantoms.write(ds, folder / f"{n}.dcm") for n, ds in enumerate((first, second, third))]


@pytest.mark.parametrize("syntax", [phantoms.EXPLICIT, phantoms.IMPLICIT, phantoms.BIG])
def test_a_name_that_another_object_tells_goes(make: Make, tmp_path: Path, out: Path, syntax: str) -> None:
    sources = study(tmp_path, syntax)
    deidentifier = make()

    report = deidentify_study(deidentifier, sources, out)

    makers = [pydicom.dcmread(out / file.name).Manufacturer for file in report.files]
    assert makers == ["made for REMOVED", "sold by Wohlgemuth", "ACME"]
    assert verify_outputs(sources, out, make()).passed
    assert report.files[0].actions["identity in other attributes"] == 1
    assert [file.size for file in report.files] == [(out / file.name).stat().st_size for file in report.files]
    assert sorted(path.name for path in out.iterdir()) == sorted(file.name for file in report.files)
    again = deidentifier.file(sources[0], tmp_path / "alone.dcm")
    assert pydicom.dcmread(tmp_path / again.name).Manufacturer == "made for Wohlgemuth", (
        "nothing is kept in mind"
    )


def test_an_original_that_is_gone_when_its_copy_is_made_again(make: Make, tmp_path: Path, out: Path) -> None:
    sources = study(tmp_path)

    def gone(done: int, total: int) -> None:
        if done == total:
            sources[0].unlink()

    report = deidentify_study(make(), sources, out, gone, name_unavailable=True)
    assert [(failure.number, failure.kind) for failure in report.failures] == [(1, "OriginalUnavailable")]
    assert sorted(path.name for path in out.iterdir()) == sorted(file.name for file in report.files)
    assert len(report.files) == 2

    sources = study(tmp_path)
    with pytest.raises(OriginalUnavailable):
        deidentify_study(make(), sources, tmp_path / "again", gone)


def test_the_order_of_files_changes_no_byte(make: Make, tmp_path: Path) -> None:
    sources = study(tmp_path)
    for name, ordered in (("one", sources), ("two", sources[::-1])):
        deidentify_study(make("clean_descriptors"), ordered, tmp_path / name)

    made = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert made[0] == made[1]


def test_only_what_changes_is_made_again(
    make: Make, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[str] = []
    store = Deidentifier._store

    def counted(*args: Any, **more: Any) -> object:
        stored.append("")
        return store(*args, **more)

    monkeypatch.setattr(Deidentifier, "_store", staticmethod(counted))
    sources = study(tmp_path)
    sources += [phantoms.write(phantoms.image(n), tmp_path / f"{n}.dcm") for n in (11, 12, 13)]

    assert len(deidentify_study(make(), sources, out).files) == 6
    assert len(stored) == 7, "11 to 13 lack a name, too, but nothing in them changes"


def test_a_copy_that_can_not_be_made_again_goes(
    make: Make, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Deidentifier.heard

    def once(self: Deidentifier, *args: Any, **more: Any) -> object:
        if more.get("unless") is not None:
            raise RefusedDicom("not again")
        return heard(self, *args, **more)

    monkeypatch.setattr(Deidentifier, "heard", once)

    report = deidentify_study(make(), study(tmp_path), out)

    assert [(failure.number, failure.reason) for failure in report.failures] == [(1, "not again")]
    assert len(report.files) == len(list(out.iterdir())) == 2
