-- The distinct headers of each series as far as rules can look at them, so that other rules can be tried on
-- everything that is known. Nothing in it identifies anybody; what is missing is read from the archive.

-- cover: digest of what the variants hold; types: JSON list, what the rules in force gave.
CREATE TABLE header_variants (
    study     TEXT NOT NULL,
    series    TEXT NOT NULL,
    instances INTEGER NOT NULL,
    types     TEXT NOT NULL,
    cover     TEXT NOT NULL,
    variants  BLOB NOT NULL,
    PRIMARY KEY (study, series)
) WITHOUT ROWID;

CREATE TABLE variant_covers (
    cover    TEXT PRIMARY KEY,
    document TEXT NOT NULL
) WITHOUT ROWID;
