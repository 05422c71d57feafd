-- Sites: trees of their own in which a study may arrive. site: name of the entry in SITES, '' for the main one.

-- Where each study arrived. chosen: when a person decided for this site, '' if nobody did.
CREATE TABLE study_sites (
    study         TEXT NOT NULL,
    site          TEXT NOT NULL,
    first_arrival TEXT NOT NULL,
    chosen        TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (study, site)
) WITHOUT ROWID;
INSERT INTO study_sites (study, site, first_arrival) SELECT study, '', first_arrival FROM studies;

-- The site that counts: the one a person chose, otherwise that of the first arrival.
ALTER TABLE studies ADD COLUMN site TEXT NOT NULL DEFAULT '';

-- What arrived at every site; the view instances below shows those of the site that counts.
CREATE TABLE site_instances (
    study           TEXT NOT NULL,
    site            TEXT NOT NULL,
    sop_instance    TEXT NOT NULL,
    series          TEXT NOT NULL,
    sop_class       TEXT NOT NULL,
    transfer_syntax TEXT NOT NULL,
    path            TEXT NOT NULL,
    size            INTEGER NOT NULL,
    received        TEXT NOT NULL,
    repeats         INTEGER NOT NULL DEFAULT 0,
    conflicts       INTEGER NOT NULL DEFAULT 0,
    revision        INTEGER NOT NULL DEFAULT 0,
    digest          TEXT NOT NULL DEFAULT '',
    altered         TEXT NOT NULL DEFAULT '',
    filed           TEXT NOT NULL DEFAULT '',
    accepted        TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (study, site, sop_instance)
) WITHOUT ROWID;
INSERT INTO site_instances (study, site, sop_instance, series, sop_class, transfer_syntax, path, size, received,
        repeats, conflicts, revision, digest, altered, filed, accepted)
    SELECT study, '', sop_instance, series, sop_class, transfer_syntax, path, size, received, repeats, conflicts,
        revision, digest, altered, filed, accepted FROM instances;
DROP TABLE instances;
CREATE INDEX site_instances_sop ON site_instances (sop_instance);
CREATE VIEW instances AS SELECT i.* FROM site_instances i JOIN studies s ON s.study = i.study AND s.site = i.site;

-- mark: checksum of the bytes before the offset. A journal that was put back from a backup shows by it.
ALTER TABLE journals ADD COLUMN mark TEXT NOT NULL DEFAULT '';
