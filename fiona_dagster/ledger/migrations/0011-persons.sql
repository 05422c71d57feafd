-- Whose a study is, sealed with a key outside of the ledger: a copy of this file alone names nobody. What is missing
-- is read from the archive again.
DROP TABLE identifying_values;
CREATE TABLE persons (
    study  TEXT PRIMARY KEY,
    sealed BLOB NOT NULL
) WITHOUT ROWID;
