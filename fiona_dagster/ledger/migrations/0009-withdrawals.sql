-- Requests that a person withdrew or that are gone from REDCap, withdrawn consents, derived studies, erasures.

-- kind: marked (in REDCap), missing (from REDCap), command (fiona withdraw), consent (of the participant).
-- state: seen (missing, not confirmed: nothing follows from it), asked (too many at once: nothing is sent until a
-- person decides), carried (out), rejected (a person decided that it goes on).
-- exports: complete exports, one after the other, that lacked the request.
CREATE TABLE withdrawals (
    study          TEXT NOT NULL,
    project        TEXT NOT NULL,
    request        INTEGER NOT NULL,
    requested_date TEXT NOT NULL,
    kind           TEXT NOT NULL,
    state          TEXT NOT NULL,
    exports        INTEGER NOT NULL DEFAULT 0,
    first_seen     TEXT NOT NULL,
    changed        TEXT NOT NULL,
    decided_by     TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (study, project, request, requested_date)
) WITHOUT ROWID;
CREATE INDEX withdrawals_state ON withdrawals (state);

CREATE TABLE withdrawn_consents (
    project     TEXT NOT NULL,
    participant TEXT NOT NULL,
    time        TEXT NOT NULL,
    told_by     TEXT NOT NULL,
    PRIMARY KEY (project, participant)
) WITHOUT ROWID;

-- Studies that came back under a de-identified StudyInstanceUID. transfer: the one that had made this UID.
CREATE TABLE derived_studies (
    study    TEXT PRIMARY KEY,
    original TEXT NOT NULL,
    project  TEXT NOT NULL,
    transfer INTEGER NOT NULL,
    found    TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX transfers_mapped ON transfers (mapped_uid);

-- What was erased: counts, and nothing else.
CREATE TABLE erasures (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    time       TEXT NOT NULL,
    project    TEXT NOT NULL,
    studies    INTEGER NOT NULL,
    instances  INTEGER NOT NULL,
    transfers  INTEGER NOT NULL,
    packages   INTEGER NOT NULL,
    deliveries INTEGER NOT NULL
);
