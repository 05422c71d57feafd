-- Verified copies that a person has to look at before they leave, and what was decided.

-- review: JSON object, reason -> number; empty: nobody has to look.
ALTER TABLE verifications ADD COLUMN review TEXT NOT NULL DEFAULT '{}';

-- content: digest of the verified files. A copy made again of the very same bytes needs no second look.
-- decision: released, rejected
CREATE TABLE releases (
    study    TEXT NOT NULL,
    project  TEXT NOT NULL,
    content  TEXT NOT NULL,
    decision TEXT NOT NULL,
    by       TEXT NOT NULL,
    reason   TEXT NOT NULL,
    time     TEXT NOT NULL,
    PRIMARY KEY (study, project, content)
) WITHOUT ROWID;
