-- Which generations of UIDs are used up by copies whose link was erased: they may still lie at targets, and what
-- comes later must not get their names. part: the first byte of the SHA-256 of the StudyInstanceUID, so that a row
-- stands for every 256th study there is and names none. next: the first free generation there.
CREATE TABLE erased_generations (
    project TEXT NOT NULL,
    part    INTEGER NOT NULL,
    next    INTEGER NOT NULL,
    PRIMARY KEY (project, part)
) WITHOUT ROWID;
