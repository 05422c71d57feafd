"""De-identifies the objects of a study together: what one of them tells of the person goes from all of them.

Belongs here: many files, their names and order. Stays out: one file (``deidentify``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fiona_dagster.deid.copies import Heard
from fiona_dagster.deid.deidentify import Deidentifier, Failure, FileReport, StudyReport
from fiona_dagster.deid.identities import Told
from fiona_dagster.deid.writing import part_of
from fiona_dagster.errors import OriginalUnavailable, RefusedDicom, UnreadableDicom

Failures = tuple[type[Exception], ...]


@dataclass
class _Made:
    """A copy that is there."""

    number: int
    source: Path
    report: FileReport
    heard: Heard


def deidentify_study(
    deidentifier: Deidentifier,
    sources: Sequence[Path],
    out_dir: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    name_unavailable: bool = False,
) -> StudyReport:
    """De-identifies files into ``out_dir``, one copy each, named by new UIDs.

    A name, an id or a date that one object of a study tells is cleaned from all others of it: copies that
    were made before it was known are made again.

    Nothing is flushed: copies can be made again. Whoever vouches for them flushes first (``flushed``).

    Args:
        deidentifier: rules and identities.
        sources: the files; their order decides which of two with the same UID gets the plain name.
        out_dir: made if missing; nothing but copies is put there.
        progress: told (done, total) after each file.
        name_unavailable: a file that the disk does not give is a failure like others, for a caller who
            looks at each; else it ends the work, so that nobody takes it for one that can't be processed.

    Returns:
        The report. Files that failed are in it by position, with the reason; the others are done.

    Raises:
        OriginalUnavailable: the disk does not give a file.
    """
    out_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    report = StudyReport(deidentifier.header())
    failures: Failures = (
        UnreadableDicom,
        RefusedDicom,
        *((OriginalUnavailable,) if name_unavailable else ()),
    )
    made: list[_Made] = []
    taken: set[str] = set()
    same: dict[frozenset[Told], frozenset[Told]] = {}

    def place(instance: str) -> AbstractContextManager[int]:
        return part_of(out_dir / _free_name(instance, taken), flush=False)

    for number, source in enumerate(sources, 1):
        try:
            done = deidentifier.heard(source, place)
        except failures as error:
            report.failures.append(Failure(number, type(error).__name__, str(error)))
        else:
            if done is not None:
                file, heard = done
                name = _free_name(file.sop_instance, taken)
                taken.add(name)
                told = same.setdefault(heard.told, heard.told)
                made.append(_Made(number, source, replace(file, name=name), heard._replace(told=told)))
        if progress:
            progress(number, len(sources))
    _together(deidentifier, made, out_dir, report, failures)
    report.files = [each.report for each in made]
    return report


def _together(
    deidentifier: Deidentifier, made: list[_Made], out_dir: Path, report: StudyReport, failures: Failures
) -> None:
    """Makes copies again that would be others if their originals had told what others of the study tell."""
    told: dict[str, set[Told]] = {}
    for study, values in {(each.heard.study, each.heard.told) for each in made}:
        told.setdefault(study, set()).update(values)
    lacking = [each for each in made if each.heard.told != told[each.heard.study]]
    if not lacking:
        return
    with deidentifier.knowing(told):
        for each in lacking:
            target = out_dir / each.report.name
            again = partial(_again, target)
            try:
                done = deidentifier.heard(each.source, again, unless=each.heard.header)
            except failures as error:
                target.unlink()
                made.remove(each)
                report.failures.append(Failure(each.number, type(error).__name__, str(error)))
                continue
            if done is not None:
                each.report = replace(done[0], name=each.report.name)
    report.failures.sort(key=lambda failure: failure.number)


def _again(target: Path, _instance: str) -> AbstractContextManager[int]:
    return part_of(target, flush=False)


def _free_name(instance: str, taken: set[str]) -> str:
    name, number = f"{instance}.dcm", 1
    while name in taken:
        number += 1
        name = f"{instance}_{number}.dcm"
    return name
