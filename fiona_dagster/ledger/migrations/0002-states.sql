-- What one state per instance needs: in which revision an instance first counted, its digest, what lies aside of
-- the archive, and what a transfer held back.

-- revision: the study's revision that first held these bytes; 0 while the study is still arriving.
-- digest: SHA-256 over transfer syntax and data set, '' until the study is processed.
-- altered: when the archived bytes were found to differ from the digest, '' if never.
-- filed: time of the journal line that says which bytes stand in the archive.
-- accepted: time at which a person put other bytes in the place of the first ones, '' if never.
ALTER TABLE instances ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN digest   TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN altered  TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN filed    TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN accepted TEXT NOT NULL DEFAULT '';

UPDATE instances SET filed = received;
UPDATE instances SET revision = (SELECT s.revision FROM studies s WHERE s.study = instances.study)
    WHERE study IN (SELECT study FROM studies WHERE open = 0);

-- Bytes that were acknowledged but are not what stands in the archive. path: where they were put first.
-- state: conflict (waits for a person), accepted (they are the instance now), rejected, superseded (stood in the
-- archive before a conflict was accepted).
CREATE TABLE set_aside (
    path         TEXT PRIMARY KEY,
    study        TEXT NOT NULL,
    sop_instance TEXT NOT NULL,
    state        TEXT NOT NULL,
    size         INTEGER NOT NULL,
    received     TEXT NOT NULL,
    calling_ae   TEXT NOT NULL,
    caller_ip    TEXT NOT NULL,
    decided      TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX set_aside_study ON set_aside (study);

-- Journals that told of conflicts are read once more, since the table above did not exist.
DELETE FROM journals WHERE substr(name, instr(name, ' scp_') + 5) IN
    (SELECT study FROM instances WHERE conflicts > 0);
UPDATE instances SET repeats = 0, conflicts = 0 WHERE study IN
    (SELECT study FROM instances WHERE conflicts > 0);

-- Instances that a transfer held back, since their kind may identify and can't be cleaned.
CREATE TABLE held_back (
    transfer     INTEGER NOT NULL REFERENCES transfers (id),
    revision     INTEGER NOT NULL,
    sop_instance TEXT NOT NULL,
    kind         TEXT NOT NULL,
    PRIMARY KEY (transfer, revision, sop_instance)
) WITHOUT ROWID;
