-- Where a study is to go: whose it is, what automatic assignment made of it, and what REDCap's table of projects said.

-- What identifies the person and the examination, as the headers say: matched with the coupling list, routing rules
-- and the opt-out list. Never leaves the data root; made again from the archive when it is missing.
-- kind: patient_id, patient_name, accession_number.
CREATE TABLE identifying_values (
    study TEXT NOT NULL,
    kind  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (study, kind, value)
) WITHOUT ROWID;
CREATE INDEX identifying_values_value ON identifying_values (kind, value);

-- What automatic assignment last made of a study. state: asked (a request was written to REDCap), requested (one was
-- there), waiting (for a person), opted_out. way: coupling, routing, autoid, or ''. seen: digest of the tables that
-- were looked at. reason: nothing identifying.
CREATE TABLE assignments (
    study    TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    state    TEXT NOT NULL,
    way      TEXT NOT NULL DEFAULT '',
    project  TEXT NOT NULL DEFAULT '',
    reason   TEXT NOT NULL DEFAULT '',
    seen     TEXT NOT NULL,
    changed  TEXT NOT NULL
) WITHOUT ROWID;

-- REDCap's DataTransferProjects as it was last read, so that projects are checked while REDCap is away. document: JSON
-- object of the fields; never the token.
CREATE TABLE project_entries (
    project  TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    read     TEXT NOT NULL
) WITHOUT ROWID;

-- What a project's own REDCap is told of a delivered copy; read from the copy before it is removed.
CREATE TABLE imaging_entries (
    transfer    INTEGER NOT NULL REFERENCES transfers (id),
    revision    INTEGER NOT NULL,
    study_date  TEXT NOT NULL,
    description TEXT NOT NULL,
    PRIMARY KEY (transfer, revision)
) WITHOUT ROWID;
