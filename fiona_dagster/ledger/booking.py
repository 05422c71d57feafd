"""Books one journal line into the ledger, so that the order in which journals are read does not matter.

Journals are read one after the other, each from front to back, and a rebuilt ledger reads all of them anew: a
conflict may be seen before what it conflicts with, a decision before the conflict. What counts is the time in
the line.
"""

from __future__ import annotations

import sqlite3

from fiona_dagster import landing

_STUDY = """INSERT INTO studies (study, first_arrival, last_arrival, calling_ae, called_ae, caller_ip)
    VALUES (:study, :time, :time, :calling_ae, :called_ae, :caller_ip)
    ON CONFLICT (study) DO UPDATE SET open = open OR :arrival,
        last_arrival = CASE WHEN :arrival THEN max(last_arrival, :time) ELSE last_arrival END,
        calling_ae = CASE WHEN :time < first_arrival THEN :calling_ae ELSE calling_ae END,
        called_ae = CASE WHEN :time < first_arrival THEN :called_ae ELSE called_ae END,
        caller_ip = CASE WHEN :time < first_arrival THEN :caller_ip ELSE caller_ip END,
        first_arrival = min(first_arrival, :time)"""

_SITE = """INSERT INTO study_sites (study, site, first_arrival) VALUES (:study, :site, :time)
    ON CONFLICT (study, site) DO UPDATE SET first_arrival = min(first_arrival, :time)"""

_SERIES = """INSERT INTO series_senders (study, site, series, first_arrival, calling_ae, called_ae, caller_ip)
    VALUES (:study, :site, :series, :time, :calling_ae, :called_ae, :caller_ip)
    ON CONFLICT (study, site, series) DO UPDATE SET first_arrival = :time, calling_ae = :calling_ae,
        called_ae = :called_ae, caller_ip = :caller_ip
    WHERE :time < first_arrival"""

_CHOICE = """INSERT INTO study_sites (study, site, first_arrival, chosen) VALUES (:study, :site, :time, :time)
    ON CONFLICT (study, site) DO UPDATE SET chosen = max(chosen, :time)"""

_HOME = """UPDATE studies SET site = (SELECT x.site FROM study_sites x WHERE x.study = studies.study
        ORDER BY x.chosen DESC, x.first_arrival, x.site LIMIT 1)
    WHERE study = :study"""

_INSTANCE = """INSERT INTO site_instances (study, site, sop_instance, series, sop_class, transfer_syntax,
        path, size, received, filed, accepted, repeats, conflicts)
    VALUES (:study, :site, :sop_instance, :series, :sop_class, :transfer_syntax,
        :archived, :size, :time, :filed, :accepted, :repeat, :conflict)
    ON CONFLICT (study, site, sop_instance) DO UPDATE SET """

_SEEN_AGAIN = (
    _INSTANCE
    + """repeats = repeats + :repeat, conflicts = conflicts + :conflict,
    series = CASE WHEN :archived != '' AND path = '' AND filed = '' THEN :series ELSE series END,
    sop_class = CASE WHEN :archived != '' AND path = '' AND filed = '' THEN :sop_class ELSE sop_class END,
    transfer_syntax = CASE WHEN :archived != '' AND path = '' AND filed = '' THEN :transfer_syntax
        ELSE transfer_syntax END,
    size = CASE WHEN :archived != '' AND path = '' AND filed = '' THEN :size ELSE size END,
    path = CASE WHEN path = '' THEN :archived ELSE path END"""
)

_BYTES = """
    series = CASE WHEN :filed > filed THEN :series ELSE series END,
    sop_class = CASE WHEN :filed > filed THEN :sop_class ELSE sop_class END,
    transfer_syntax = CASE WHEN :filed > filed THEN :transfer_syntax ELSE transfer_syntax END,
    size = CASE WHEN :filed > filed THEN :size ELSE size END,
    filed = max(:filed, filed)"""

_FILED = (
    _INSTANCE
    + "path = :archived, received = CASE WHEN filed = '' THEN :time ELSE min(received, :time) END,"
    + _BYTES
)

_ACCEPTED = (
    _INSTANCE
    + """revision = CASE WHEN :filed > filed THEN 0 ELSE revision END,
    digest = CASE WHEN :filed > filed THEN '' ELSE digest END,
    altered = CASE WHEN :filed > filed THEN '' ELSE altered END,
    accepted = max(:filed, accepted),"""
    + _BYTES
)

_ASIDE = """INSERT INTO set_aside (path, study, sop_instance, state, size, received, calling_ae, caller_ip,
        decided)
    VALUES (:path, :study, :sop_instance, :kind, :size, :time, :calling_ae, :caller_ip, :decided)
    ON CONFLICT (path) DO UPDATE SET """

_ASIDE_ARRIVED = (
    _ASIDE
    + """state = CASE WHEN :time > decided THEN 'conflict' ELSE state END,
    received = :time, calling_ae = :calling_ae, caller_ip = :caller_ip"""
)

_ASIDE_DECIDED = (
    _ASIDE + """state = CASE WHEN :time >= decided THEN :kind ELSE state END, decided = max(:time, decided)"""
)

_DECISIONS = ("accepted", "rejected", "superseded")


def book(db: sqlite3.Connection, receipt: landing.Receipt, site: str = "") -> None:
    """Books one line of a journal of ``site``.

    ``stored`` and ``adopted`` make an instance. A repeat or a conflict changes counts only, but a repeat may
    be all that tells of a file: the process that placed it was killed before its line, and the sender came
    again. A decision about a conflict moves what was set aside and, if it was accepted, says which bytes the
    instance has now.
    """
    kind = receipt.kind
    tells_of_file = kind in ("stored", "adopted", "repeat") and not landing.is_set_aside(receipt.path)
    values = {
        "study": receipt.StudyInstanceUID,
        "site": site,
        "sop_instance": receipt.SOPInstanceUID,
        "series": receipt.SeriesInstanceUID,
        "sop_class": receipt.SOPClassUID,
        "transfer_syntax": receipt.transfer_syntax,
        "path": receipt.path,
        "archived": receipt.path if tells_of_file else "",
        "size": receipt.size,
        "time": receipt.time,
        "calling_ae": receipt.calling_ae,
        "called_ae": receipt.called_ae,
        "caller_ip": receipt.caller_ip,
        "arrival": int(kind not in ("rejected", "superseded")),
        "repeat": int(kind == "repeat"),
        "conflict": int(kind == "conflict"),
        "filed": receipt.time if kind in ("stored", "adopted", "accepted") else "",
        "accepted": receipt.time if kind == "accepted" else "",
        "decided": receipt.time if kind in _DECISIONS else "",
        "kind": "conflict" if kind == "repeat" else kind,
    }
    db.execute(_STUDY, values)
    db.execute(_SITE, values)
    db.execute(_HOME, values)
    if kind not in _DECISIONS:
        db.execute("INSERT OR IGNORE INTO senders (study, calling_ae) VALUES (:study, :calling_ae)", values)
    if tells_of_file:
        db.execute(_SERIES, values)
    if kind in ("stored", "adopted"):
        db.execute(_FILED, values)
    elif kind == "accepted":
        db.execute(_ACCEPTED, values)
    elif kind in ("repeat", "conflict"):
        db.execute(_SEEN_AGAIN, values)
    if kind in _DECISIONS:
        db.execute(_ASIDE_DECIDED, values)
    elif kind == "conflict" or landing.is_set_aside(receipt.path):
        db.execute(_ASIDE_ARRIVED if kind == "conflict" else _ASIDE + "path = path", values)


def choose_site(db: sqlite3.Connection, study: str, site: str, time: str) -> None:
    """Books that a person decided at which site a study counts; the newest decision is in force."""
    values = {"study": study, "site": site, "time": time}
    db.execute(_CHOICE, values)
    db.execute(_HOME, values)
