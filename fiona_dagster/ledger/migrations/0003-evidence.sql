-- What each revision of a study held, and how many instances more than the one before.
CREATE TABLE revisions (
    study     TEXT NOT NULL,
    revision  INTEGER NOT NULL,
    time      TEXT NOT NULL,
    instances INTEGER NOT NULL,
    added     INTEGER NOT NULL,
    PRIMARY KEY (study, revision)
) WITHOUT ROWID;

-- Who sent to a study: quiet time may depend on it.
CREATE TABLE senders (
    study      TEXT NOT NULL,
    calling_ae TEXT NOT NULL,
    PRIMARY KEY (study, calling_ae)
) WITHOUT ROWID;

-- Modality Performed Procedure Steps, as the newest line of the journals of evidence has them.
CREATE TABLE performed_steps (
    study      TEXT NOT NULL,
    step       TEXT NOT NULL,
    status     TEXT NOT NULL,
    alone      INTEGER NOT NULL, -- whether this is the only study of the step
    calling_ae TEXT NOT NULL,
    time       TEXT NOT NULL,
    PRIMARY KEY (study, step)
) WITHOUT ROWID;
CREATE INDEX performed_steps_step ON performed_steps (step);

CREATE TABLE expected_instances (
    study        TEXT NOT NULL,
    step         TEXT NOT NULL,
    sop_instance TEXT NOT NULL,
    series       TEXT NOT NULL,
    PRIMARY KEY (study, step, sop_instance)
) WITHOUT ROWID;

-- What a source was asked about a study since its last arrival, and what it said.
-- state: open, counted, silent; series: JSON object, Series Instance UID -> instances there.
CREATE TABLE source_counts (
    study     TEXT NOT NULL,
    source    TEXT NOT NULL,
    since     TEXT NOT NULL,
    asked     TEXT NOT NULL,
    state     TEXT NOT NULL,
    instances INTEGER NOT NULL DEFAULT 0,
    series    TEXT NOT NULL DEFAULT '{}',
    why       TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (study, source)
) WITHOUT ROWID;
CREATE INDEX source_counts_open ON source_counts (state, asked);

-- Attempts to have missing instances sent by a source. wanted: what it counted when it was asked.
CREATE TABLE fetches (
    study    TEXT NOT NULL,
    source   TEXT NOT NULL,
    series   TEXT NOT NULL,
    wanted   INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    total    INTEGER NOT NULL,
    time     TEXT NOT NULL,
    result   TEXT NOT NULL,
    PRIMARY KEY (study, source, series)
) WITHOUT ROWID;

-- The last decision on completeness. document: JSON object with reasons and numbers.
CREATE TABLE completion (
    study    TEXT PRIMARY KEY,
    outcome  TEXT NOT NULL,
    time     TEXT NOT NULL,
    document TEXT NOT NULL
) WITHOUT ROWID;

-- Instances whose safekeeping was confirmed to a sender: no retention may remove them.
CREATE TABLE committed (
    study           TEXT NOT NULL,
    sop_instance    TEXT NOT NULL,
    transaction_uid TEXT NOT NULL,
    calling_ae      TEXT NOT NULL,
    time            TEXT NOT NULL,
    PRIMARY KEY (study, sop_instance)
) WITHOUT ROWID;

CREATE INDEX instances_sop ON instances (sop_instance);
