-- Which de-identified StudyInstanceUIDs may be those of copies whose link was erased: what a workstation makes of
-- such copies may still come back. root: all of the UID but its last component, the same for every copy of a scheme.
-- part: the first byte of the SHA-256 of the UID, so that a row stands for every 256th copy there is and names none.
CREATE TABLE erased_copies (
    project TEXT NOT NULL,
    root    TEXT NOT NULL,
    part    INTEGER NOT NULL,
    PRIMARY KEY (project, root, part)
) WITHOUT ROWID;
