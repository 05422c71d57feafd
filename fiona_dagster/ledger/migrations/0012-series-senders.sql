-- Who sent the first instance of each series: one study may come from a scanner and from a workstation.

CREATE TABLE series_senders (
    study         TEXT NOT NULL,
    site          TEXT NOT NULL,
    series        TEXT NOT NULL,
    first_arrival TEXT NOT NULL,
    calling_ae    TEXT NOT NULL,
    called_ae     TEXT NOT NULL,
    caller_ip     TEXT NOT NULL,
    PRIMARY KEY (study, site, series)
) WITHOUT ROWID;

-- What is known already keeps the sender that stands in its record: that of the study.
INSERT INTO series_senders (study, site, series, first_arrival, calling_ae, called_ae, caller_ip)
    SELECT i.study, i.site, i.series, min(i.received), s.calling_ae, s.called_ae, s.caller_ip
    FROM site_instances i JOIN studies s ON s.study = i.study
    GROUP BY i.study, i.site, i.series;
