-- Requests that a routing rule wrote into REDCap, booked before they are written: only what came to a project this way
-- may bear the participant id as PatientID because redcap.trusted_senders names its senders. requested_date: as
-- REDCap has it; together with study and project it finds the transfer. Nothing identifying.
CREATE TABLE routed (
    study          TEXT NOT NULL,
    project        TEXT NOT NULL,
    requested_date TEXT NOT NULL,
    PRIMARY KEY (study, project, requested_date)
) WITHOUT ROWID;

-- What was routed before this table was there: the history says so, and the first request of the project is meant.
INSERT INTO routed (study, project, requested_date)
SELECT t.study, t.project, t.requested_date FROM transfers t
WHERE t.id = (SELECT min(f.id) FROM transfers f WHERE f.study = t.study AND f.project = t.project)
AND EXISTS (SELECT 1 FROM history h WHERE h.study = t.study
            AND h.what = 'request for project ' || t.project || ' written by a routing rule');
