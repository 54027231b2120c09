-- Times are Unix time: *_ns in nanoseconds, *_s in seconds. Site ids are blobs of 16 bytes.

CREATE TABLE sites (
    id             BLOB PRIMARY KEY CHECK (length(id) = 16),
    name           TEXT NOT NULL,
    first_seen_s   INTEGER NOT NULL,
    last_seen_s    INTEGER NOT NULL,
    state          TEXT NOT NULL,
    prefixes       TEXT NOT NULL CHECK (json_valid(prefixes))
) STRICT, WITHOUT ROWID;

-- This site's uplinks: a name keeps its index for good.
CREATE TABLE uplinks (
    name           TEXT PRIMARY KEY,
    idx            INTEGER NOT NULL UNIQUE CHECK (idx BETWEEN 0 AND 7),
    last_used_s    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE paths (
    id             INTEGER PRIMARY KEY,
    site           BLOB NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    local_uplink   INTEGER NOT NULL CHECK (local_uplink BETWEEN 0 AND 7),
    remote_uplink  INTEGER NOT NULL CHECK (remote_uplink BETWEEN 0 AND 7),
    UNIQUE (site, local_uplink, remote_uplink)
) STRICT;

-- resolution_s: 0 as recorded, 60 by the minute, 3600 by the hour; time_s is the beginning of the interval.
CREATE TABLE path_metrics (
    path           INTEGER NOT NULL REFERENCES paths (id) ON DELETE CASCADE,
    resolution_s   INTEGER NOT NULL CHECK (resolution_s IN (0, 60, 3600)),
    time_s         INTEGER NOT NULL,
    samples        INTEGER NOT NULL,
    up_samples     INTEGER NOT NULL,
    score          REAL NOT NULL,
    rtt_ms         REAL,
    rtt_min_ms     REAL,
    rtt_max_ms     REAL,
    jitter_forward_ms   REAL NOT NULL,
    jitter_backward_ms  REAL NOT NULL,
    loss_forward_pct    REAL,
    loss_backward_pct   REAL,
    mos            REAL,
    sent_packets   INTEGER NOT NULL,
    sent_bytes     INTEGER NOT NULL,
    received_packets    INTEGER NOT NULL,
    received_bytes      INTEGER NOT NULL,
    PRIMARY KEY (path, resolution_s, time_s)
) STRICT, WITHOUT ROWID;
CREATE INDEX path_metrics_by_age ON path_metrics (resolution_s, time_s);

-- Until when coarser metrics have been made of finer ones.
CREATE TABLE rollups (
    resolution_s   INTEGER PRIMARY KEY,
    until_s        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The operator's, from `sdwan policies add`.
CREATE TABLE policies (
    name           TEXT PRIMARY KEY,
    definition     TEXT NOT NULL CHECK (json_valid(definition)),
    changed_s      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ns        INTEGER NOT NULL,
    kind           TEXT NOT NULL,
    site           BLOB,
    event          TEXT NOT NULL CHECK (json_valid(event))
) STRICT;
CREATE INDEX events_by_time ON events (time_ns);
CREATE INDEX events_by_kind ON events (kind, id);

CREATE TABLE flow_samples (
    id             INTEGER PRIMARY KEY,
    time_ns        INTEGER NOT NULL,
    source         BLOB NOT NULL CHECK (length(source) = 16),
    destination    BLOB NOT NULL CHECK (length(destination) = 16),
    source_port    INTEGER NOT NULL,
    destination_port INTEGER NOT NULL,
    protocol       INTEGER NOT NULL,
    class          TEXT NOT NULL,
    site           BLOB,
    local_uplink   INTEGER,
    remote_uplink  INTEGER,
    moved          INTEGER NOT NULL CHECK (moved IN (0, 1))
) STRICT;
CREATE INDEX flow_samples_by_time ON flow_samples (time_ns);

-- Numbers below next have been handed out for this site's own messages.
CREATE TABLE own_sequence (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    next           INTEGER NOT NULL
) STRICT;

-- Last accepted message of each site; empty bytes: forgotten, but its number stays.
CREATE TABLE announcements (
    site           BLOB PRIMARY KEY CHECK (length(site) = 16),
    sequence       INTEGER NOT NULL,
    accepted_s     INTEGER NOT NULL,
    bytes          BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE revocations (
    page           INTEGER PRIMARY KEY CHECK (page BETWEEN 0 AND 255),
    number         INTEGER NOT NULL,
    bytes          BLOB NOT NULL
) STRICT, WITHOUT ROWID;
