-- Who may see what over the API, and who changed what. Times are Unix time: *_ns in nanoseconds, *_s in seconds.

-- Tokens of viewers: SHA-256 of each, never the token.
CREATE TABLE api_tokens (
    name           TEXT PRIMARY KEY,
    hash           BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_s      INTEGER NOT NULL,
    expires_s      INTEGER
) STRICT, WITHOUT ROWID;

-- Every change that somebody asked for, and what became of it.
CREATE TABLE audit (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ns        INTEGER NOT NULL,
    who            TEXT NOT NULL,
    via            TEXT NOT NULL,
    source         TEXT NOT NULL,
    role           TEXT NOT NULL,
    action         TEXT NOT NULL,
    target         TEXT NOT NULL,
    before         TEXT NOT NULL CHECK (json_valid(before)),
    after          TEXT NOT NULL CHECK (json_valid(after)),
    outcome        TEXT NOT NULL,
    message        TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (time_ns);
