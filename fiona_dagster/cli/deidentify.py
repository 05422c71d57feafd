"""``fiona deidentify``: files in, de-identified and verified files out, without any service."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from fiona_dagster import deid
from fiona_dagster.cli.private_files import write_private
from fiona_dagster.config import PROJECT_NAME, DataRoot, ProjectSettings, has_project, load_project_in_force
from fiona_dagster.config.patterns import site_pattern
from fiona_dagster.errors import (
    ConfigurationError,
    FionaError,
    OriginalUnavailable,
    StorageFull,
    UsageError,
)
from fiona_dagster.ledger import Ledger
from fiona_dagster.operations import initialise

_DICOM_SUFFIX = re.compile(r"|\.(dcm|dicom|dic|ima|img|[^a-z]+)", re.IGNORECASE)
"""Names of DICOM files: usual endings, none, or the last part of a UID."""


@click.command("deidentify")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path), required=False)
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path), required=False)
@click.option("--project", required=True, help="Project acronym.")
@click.option("--participant", help="Participant that the copies belong to.")
@click.option("--event", help="Event (visit) that the copies belong to.")
@click.option("--report", type=click.Path(path_type=Path), help="Write the report (JSON) to this file.")
@click.option(
    "--page", type=click.Path(path_type=Path), help="Write the report as a page (HTML) to this file."
)
@click.option(
    "--generation", type=click.IntRange(0), default=0, show_default=True, help="See the ledger's generation."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report to stdout.")
@click.option("--explain", metavar="TAG", help="Only say what is done with TAG (in IN, if given), and why.")
@click.option("--dry-run", is_flag=True, help="Only say what is done with every element of IN, and why.")
def deidentify(
    *,
    source: Path | None,
    target: Path | None,
    project: str,
    participant: str | None,
    event: str | None,
    report: Path | None,
    page: Path | None,
    generation: int,
    as_json: bool,
    explain: str | None,
    dry_run: bool,
) -> int:
    """De-identify the file or folder IN into the folder OUT.

    OUT gets one file for each DICOM object of IN, and nothing that did not pass the residual search. Exit
    code 1 if any input failed or anything identifying was left.
    """
    root = DataRoot.from_environment()
    if not PROJECT_NAME.fullmatch(project):
        raise UsageError("--project: must be 1 to 20 letters, digits or _")
    if explain is not None or dry_run:
        who = deid.Assignment(project, participant or "PARTICIPANT", event or "EVENT")
        return _explain(root, who, source, explain, as_json=as_json)
    if source is None or target is None or participant is None or event is None:
        raise UsageError("give IN, OUT, --participant and --event (or --explain TAG, or --dry-run IN)")
    inputs, skipped = _inputs(source, target)
    for path in (report, page):
        if path is None or not _inside(path, target):
            continue
        raise UsageError(f"{path}: OUT holds nothing but de-identified DICOM; write the report elsewhere")
    deidentifier = _deidentifier(root, project, deid.Assignment(project, participant, event), generation)
    document, failed = _run(deidentifier, inputs, skipped, target)
    if report is not None:
        write_private(report, (json.dumps(document, indent=2) + "\n").encode())
    if page is not None:
        from fiona_dagster.deid.report import page as page_of

        write_private(page, page_of(document, document["verification"]))
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        left = len(document["verification"]["findings"])
        click.echo(
            f"{len(inputs)} inputs, {len(document['files'])} copies, {len(document['failures'])} failed, "
            f"{len(skipped)} skipped; residual search: {_searched(document, left)}; "
            f"key {deidentifier.key.fingerprint}"
        )
    return 1 if failed else 0


def _explain(
    root: DataRoot, assignment: deid.Assignment, source: Path | None, tag: str | None, *, as_json: bool
) -> int:
    """Prints what would be done, and writes nothing; the project's key is not needed for that."""
    from fiona_dagster.cli.projects import show
    from fiona_dagster.deid.explain import explain_files, explain_tag

    if source is None and tag is None:
        raise UsageError("--dry-run: name the file or folder IN")
    project = assignment.project
    failures: list[tuple[Path, FionaError]] = []
    no_key = deid.ProjectKey(project, bytes(32))  # no value is ever shown
    deidentifier = deid.Deidentifier(_settings(root, project), no_key, assignment)
    try:
        if source is None:
            rows = explain_tag(deidentifier, tag or "")
        else:
            inputs, skipped = _inputs(source, None)
            _say_skipped(skipped)
            rows = explain_files(deidentifier, inputs, tag or "", lambda *failure: failures.append(failure))
            for path, error in failures:
                click.echo(f"fiona: failed: {_printable(path)}: {error}", err=True)
    except ValueError as error:
        raise UsageError(f"--explain: {error}") from None
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=1))
    else:
        show(rows, counts=source is not None)
        if not rows and not failures:
            click.echo("fiona: no such element", err=True)
    return 0 if rows and not failures else 1


def _searched(document: dict[str, Any], left: int) -> str:
    if left:
        return f"{left} findings"
    return "passed" if document["files"] else "nothing to look at"


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _inputs(source: Path, target: Path | None) -> tuple[list[Path], list[Path]]:
    """The files to process, sorted, and those that are evidently no DICOM."""
    if target is not None and target.exists() and not target.is_dir():
        raise UsageError(f"{target}: OUT must be a folder")
    if target is not None and _inside(source, target):
        raise UsageError("IN lies in OUT; OUT holds nothing but de-identified DICOM, choose another folder")
    if source.is_file():
        return [source], []
    if not source.is_dir():
        raise UsageError(f"{source}: no such file or folder")
    inputs: list[Path] = []
    skipped: list[Path] = []
    for path in sorted(
        Path(folder, name) for folder, _, names in os.walk(source, onerror=_refuse) for name in names
    ):
        if target is not None and _inside(path, target):
            continue
        # anything but a regular file (a pipe, say) could block for ever; a link to nothing may be one to a
        # mount that is gone
        wanted = path.is_file() or not path.exists()
        (inputs if wanted and not _evidently_other(path) else skipped).append(path)
    if not inputs:
        raise UsageError(f"{source}: holds no DICOM files")
    return inputs, skipped


def _refuse(error: OSError) -> None:
    raise UsageError(f"{error.filename}: folder can't be read ({error.strerror}); nothing was de-identified")


def _evidently_other(path: Path) -> bool:
    """A DICOMDIR, or a file with the name and the content of something else than DICOM."""
    try:
        with path.open("rb") as handle:
            start = handle.read(2048)
    except OSError:
        return False
    if b"1.2.840.10008.1.3.10" in start and b"DICM" in start:
        return True
    dicom = start[128:132] == b"DICM" or start[:4] == b"\x02\x00\x00\x00"
    return not dicom and not _DICOM_SUFFIX.fullmatch(path.suffix)


def _deidentifier(
    root: DataRoot, project: str, assignment: deid.Assignment, generation: int
) -> deid.Deidentifier:
    if not root.path.is_dir():
        initialise(root)
        click.echo(f"fiona: made the data root {root.path}", err=True)
    root.make()
    settings = _settings(root, project)
    pattern = site_pattern(settings.participant_pattern, f"project {project}: participant_pattern")
    if not pattern.fullmatch(assignment.participant):
        raise UsageError(f"--participant: does not match the participant_pattern of project {project}")
    if settings.events and assignment.event not in settings.events:
        raise UsageError(f"--event: is not one of the events of project {project}")
    with Ledger(root) as ledger:
        key = deid.project_key(
            root, project, ledger.key_fingerprint, ledger.record_key_fingerprint, make=True
        )
    return deid.Deidentifier(settings, key, assignment, generation)


def _settings(root: DataRoot, project: str) -> ProjectSettings:
    if not has_project(root, project):
        settings = deid.basic_profile_only(project)
        click.echo(
            f"fiona: project {project} has no file in {root.project_files}: Basic Profile alone", err=True
        )
        return settings
    settings, problem = load_project_in_force(root, project)
    if problem:
        raise ConfigurationError(problem)
    return settings


def _run(
    deidentifier: deid.Deidentifier, inputs: list[Path], skipped: list[Path], target: Path
) -> tuple[dict[str, Any], bool]:
    """De-identifies beside OUT; only what passed the residual search is moved there."""
    stage = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        stage.mkdir(mode=0o700, parents=True)
        report = deid.deidentify_study(deidentifier, inputs, stage, name_unavailable=True)
        lacking = {f.number for f in report.failures if f.kind == OriginalUnavailable.__name__}
        read = [path for number, path in enumerate(inputs, 1) if number not in lacking]
        with deid.flushed(stage):
            verification = deid.verify_outputs(read, stage, deidentifier)
        # A transfer would be refused; here the person who calls chose the id, and nothing is sent.
        verification.warnings += deid.identifiers_used(read, deidentifier)
        bad = {finding.file for finding in verification.findings}
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in report.files:
            if file.name not in bad and file.name in verification.files:
                (stage / file.name).replace(target / file.name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{target}: the disk is full; make room and run it again") from None
        raise UsageError(f"{target}: can't be written ({error.strerror})") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    report.files = [
        replace(file, sha256=verification.files[file.name])
        for file in report.files
        if file.name not in bad and file.name in verification.files
    ]
    _tell(report, verification, inputs, skipped)
    document = {**report.to_json(), "verification": verification.to_json(), "skipped": len(skipped)}
    return document, bool(report.failures or bad or len(report.files) != len(inputs))


def _say_skipped(skipped: list[Path]) -> None:
    for path in skipped:
        click.echo(f"fiona: skipped, no DICOM object: {_printable(path)}", err=True)


def _tell(
    report: deid.StudyReport, verification: deid.Verification, inputs: list[Path], skipped: list[Path]
) -> None:
    """What the operator should know; only here are names of input files shown."""
    _say_skipped(skipped)
    for failure in report.failures:
        click.echo(f"fiona: failed: {_printable(inputs[failure.number - 1])}: {failure.reason}", err=True)
    held = Counter(file.held for file in report.files if file.held)
    for kind, count in sorted(held.items()):
        click.echo(
            f"fiona: {count} files: {kind}: may identify in itself; a transfer would hold it back", err=True
        )
    for rule, found in (("removed from OUT", verification.findings), ("look at", verification.warnings)):
        places = Counter((finding.tag, finding.rule) for finding in found)
        for (tag, why), count in sorted(places.items()):
            click.echo(f"fiona: {rule}: {count} files: {tag}: {why}", err=True)


def _printable(path: Path) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(path))
