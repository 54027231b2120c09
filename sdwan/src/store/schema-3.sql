-- How long a path was watched in an interval, and up meanwhile. NULL in rows of before: 10 s for each sample.
ALTER TABLE path_metrics ADD COLUMN known_ms INTEGER;
ALTER TABLE path_metrics ADD COLUMN up_ms    INTEGER;

-- Names of the remote sites' uplinks.
CREATE TABLE remote_uplinks (
    site           BLOB NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    idx            INTEGER NOT NULL CHECK (idx BETWEEN 0 AND 7),
    name           TEXT NOT NULL,
    PRIMARY KEY (site, idx)
) STRICT, WITHOUT ROWID;

-- A local uplink is up while any path by it is. Resolutions and times as in path_metrics.
CREATE TABLE uplink_metrics (
    resolution_s   INTEGER NOT NULL CHECK (resolution_s IN (0, 60, 3600)),
    time_s         INTEGER NOT NULL,
    uplink         INTEGER NOT NULL CHECK (uplink BETWEEN 0 AND 7),
    known_ms       INTEGER NOT NULL,
    up_ms          INTEGER NOT NULL,
    PRIMARY KEY (resolution_s, time_s, uplink)
) STRICT, WITHOUT ROWID;

-- A class at a remote site; sla: its bounds, for people, as they were last.
CREATE TABLE site_classes (
    id             INTEGER PRIMARY KEY,
    site           BLOB NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    class          TEXT NOT NULL,
    sla            TEXT NOT NULL,
    UNIQUE (site, class)
) STRICT;

-- For how long the path of a class kept its SLA, broke it, and there was none.
CREATE TABLE class_metrics (
    resolution_s   INTEGER NOT NULL CHECK (resolution_s IN (0, 60, 3600)),
    time_s         INTEGER NOT NULL,
    site_class     INTEGER NOT NULL REFERENCES site_classes (id) ON DELETE CASCADE,
    kept_ms        INTEGER NOT NULL,
    broken_ms      INTEGER NOT NULL,
    without_ms     INTEGER NOT NULL,
    PRIMARY KEY (resolution_s, time_s, site_class)
) STRICT, WITHOUT ROWID;
