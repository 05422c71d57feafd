-- Flags that a person looked into and accepted, for one content of a study: another content is flagged anew.
CREATE TABLE flag_decisions (
    study   TEXT NOT NULL,
    flag    TEXT NOT NULL,
    content TEXT NOT NULL,
    time    TEXT NOT NULL,
    by      TEXT NOT NULL,
    reason  TEXT NOT NULL,
    PRIMARY KEY (study, flag, content)
) WITHOUT ROWID;
