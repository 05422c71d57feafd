-- What was begun to be sent, before the first byte left; and transfers that a correction replaces under the same date.

-- A request that was put back to what it had said before is taken up again: the wording of a request is unique no
-- more. A table with references can't be changed so; its rows step aside for a moment.
CREATE TABLE transfers_new (
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
    rules          TEXT NOT NULL DEFAULT '', -- digest of the rules that the working copy was made by
    awaits_removal INTEGER NOT NULL DEFAULT 0 -- refused until the removal of an older copy is confirmed
);
INSERT INTO transfers_new (id, study, project, request, requested_date, participant, event, generation, revision,
    state, reason, mapped_uid, created, changed)
    SELECT id, study, project, request, requested_date, participant, event, generation, revision,
    state, reason, mapped_uid, created, changed FROM transfers;
CREATE TABLE keep_verifications AS SELECT * FROM verifications;
CREATE TABLE keep_packages AS SELECT * FROM packages;
CREATE TABLE keep_deliveries AS SELECT * FROM deliveries;
CREATE TABLE keep_held_back AS SELECT * FROM held_back;
DELETE FROM verifications;
DELETE FROM packages;
DELETE FROM deliveries;
DELETE FROM held_back;
DROP TABLE transfers;
ALTER TABLE transfers_new RENAME TO transfers;
CREATE INDEX transfers_study ON transfers (study, project, id);
INSERT INTO verifications SELECT * FROM keep_verifications;
INSERT INTO packages SELECT * FROM keep_packages;
INSERT INTO deliveries SELECT * FROM keep_deliveries;
INSERT INTO held_back SELECT * FROM keep_held_back;
DROP TABLE keep_verifications;
DROP TABLE keep_packages;
DROP TABLE keep_deliveries;
DROP TABLE keep_held_back;

-- A row is written before the first byte leaves. removed: when a person confirmed that nothing of it is at the target
-- any more; by whom.
-- state: begun; proven; unproven (present there, but nobody can say that it is what was sent).
-- instances: JSON object, mapped SOP Instance UID -> SHA-256 of what was to be sent (research PACS only).
-- uncertain: JSON list, those that the target had before under the same UIDs with bytes that we can't vouch for.
CREATE TABLE sendings (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    transfer   INTEGER NOT NULL REFERENCES transfers (id),
    study      TEXT NOT NULL,
    project    TEXT NOT NULL,
    target     TEXT NOT NULL,
    revision   INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    mapped_uid TEXT NOT NULL,
    rules      TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    instances  TEXT NOT NULL,
    uncertain  TEXT NOT NULL DEFAULT '[]',
    state      TEXT NOT NULL,
    proof      TEXT NOT NULL DEFAULT '{}',
    began      TEXT NOT NULL,
    changed    TEXT NOT NULL,
    removed    TEXT NOT NULL DEFAULT '',
    removed_by TEXT NOT NULL DEFAULT ''
);
CREATE INDEX sendings_study ON sendings (study, project, target, id);

-- Older versions wrote down proofs only; of the rest, what was asked for once may have begun.
INSERT INTO sendings (transfer, study, project, target, revision, generation, mapped_uid, rules, sha256, instances,
    state, proof, began, changed)
    SELECT t.id, t.study, t.project, d.target, d.revision, t.generation, t.mapped_uid, '', d.sha256,
    coalesce((SELECT json_group_object(substr(f.key, 1, length(f.key) - 4), f.value) FROM verifications v,
        json_each(v.files) f WHERE v.transfer = t.id AND v.revision = d.revision), '{}'),
    'proven', d.proof, d.time, d.time FROM deliveries d JOIN transfers t ON t.id = d.transfer ORDER BY d.time;
INSERT INTO sendings (transfer, study, project, target, revision, generation, mapped_uid, rules, sha256, instances,
    state, began, changed)
    SELECT t.id, t.study, t.project, w.target, t.revision, t.generation, t.mapped_uid, '', p.sha256,
    coalesce((SELECT json_group_object(substr(f.key, 1, length(f.key) - 4), f.value) FROM verifications v,
        json_each(v.files) f WHERE v.transfer = t.id AND v.revision = t.revision), '{}'),
    'begun', p.time, p.time FROM work w
    JOIN transfers t ON t.study = w.study AND t.project = w.project AND t.state IN ('packaged', 'failed')
    JOIN packages p ON p.transfer = t.id AND p.revision = t.revision
    WHERE w.kind = 'deliver' AND (w.requested IS NOT NULL OR w.attempt > 1);
