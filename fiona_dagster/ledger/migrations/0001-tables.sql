-- The ledger: where every study, instance, transfer, attempt and delivery stands (design section 2).
-- Times are UTC, ISO 8601 with microseconds and a Z, so that they compare as text.

CREATE TABLE IF NOT EXISTS facts (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- How far each journal of receipts was read.
CREATE TABLE IF NOT EXISTS journals (
    name   TEXT PRIMARY KEY,
    offset INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS instances (
    study           TEXT NOT NULL,
    sop_instance    TEXT NOT NULL,
    series          TEXT NOT NULL,
    sop_class       TEXT NOT NULL,
    transfer_syntax TEXT NOT NULL,
    path            TEXT NOT NULL,
    size            INTEGER NOT NULL,
    received        TEXT NOT NULL,
    repeats         INTEGER NOT NULL DEFAULT 0,
    conflicts       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (study, sop_instance)
) WITHOUT ROWID;

-- revision: the set of instances that is to be processed; registered: the last one that reached REDCap.
CREATE TABLE IF NOT EXISTS studies (
    study           TEXT PRIMARY KEY,
    first_arrival   TEXT NOT NULL,
    last_arrival    TEXT NOT NULL,
    calling_ae      TEXT NOT NULL,
    called_ae       TEXT NOT NULL,
    caller_ip       TEXT NOT NULL,
    revision        INTEGER NOT NULL DEFAULT 0,
    revision_digest TEXT NOT NULL DEFAULT '',
    open            INTEGER NOT NULL DEFAULT 1,
    registered      INTEGER NOT NULL DEFAULT 0,
    flags           TEXT NOT NULL DEFAULT '[]',
    summary         TEXT NOT NULL DEFAULT '{}',
    retired         TEXT
);
CREATE INDEX IF NOT EXISTS studies_open ON studies (open, last_arrival);

CREATE TABLE IF NOT EXISTS key_fingerprints (
    project     TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    recorded    TEXT NOT NULL
);

-- One row for each transfer request that was accepted or refused; the newest of a study and project counts.
CREATE TABLE IF NOT EXISTS transfers (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    study          TEXT NOT NULL,
    project        TEXT NOT NULL,
    request        INTEGER NOT NULL,
    requested_date TEXT NOT NULL,
    participant    TEXT NOT NULL,
    event          TEXT NOT NULL,
    generation     INTEGER NOT NULL DEFAULT 0,
    revision       INTEGER NOT NULL,
    state          TEXT NOT NULL,
    reason         TEXT NOT NULL DEFAULT '',
    mapped_uid     TEXT NOT NULL DEFAULT '',
    created        TEXT NOT NULL,
    changed        TEXT NOT NULL,
    UNIQUE (study, project, request, requested_date, participant, event)
);
CREATE INDEX IF NOT EXISTS transfers_study ON transfers (study, project, id);

-- The gate: what was verified, byte for byte. files: JSON object, relative name -> SHA-256.
CREATE TABLE IF NOT EXISTS verifications (
    transfer INTEGER NOT NULL REFERENCES transfers (id),
    revision INTEGER NOT NULL,
    passed   INTEGER NOT NULL,
    files    TEXT NOT NULL,
    report   TEXT NOT NULL,
    time     TEXT NOT NULL,
    PRIMARY KEY (transfer, revision)
);

CREATE TABLE IF NOT EXISTS packages (
    transfer  INTEGER NOT NULL REFERENCES transfers (id),
    revision  INTEGER NOT NULL,
    path      TEXT NOT NULL,
    size      INTEGER NOT NULL,
    md5       TEXT NOT NULL,
    sha256    TEXT NOT NULL,
    instances INTEGER NOT NULL,
    time      TEXT NOT NULL,
    PRIMARY KEY (transfer, revision)
);

CREATE TABLE IF NOT EXISTS deliveries (
    transfer INTEGER NOT NULL REFERENCES transfers (id),
    revision INTEGER NOT NULL,
    target   TEXT NOT NULL,
    sha256   TEXT NOT NULL,
    proof    TEXT NOT NULL,
    time     TEXT NOT NULL,
    PRIMARY KEY (transfer, revision, target)
);

-- What is to be done, with attempts and next times. It is level-triggered: a row stays until its work is done.
CREATE TABLE IF NOT EXISTS work (
    key        TEXT PRIMARY KEY,
    kind       TEXT NOT NULL,
    study      TEXT NOT NULL,
    project    TEXT NOT NULL DEFAULT '',
    target     TEXT NOT NULL DEFAULT '',
    revision   INTEGER NOT NULL,
    token      TEXT NOT NULL,
    attempt    INTEGER NOT NULL DEFAULT 1,
    not_before TEXT NOT NULL DEFAULT '',
    requested  TEXT,
    blocked    INTEGER NOT NULL DEFAULT 0,
    error      TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS work_due ON work (kind, blocked, not_before);

CREATE TABLE IF NOT EXISTS history (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    study TEXT NOT NULL,
    time  TEXT NOT NULL,
    what  TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS history_study ON history (study, id);
