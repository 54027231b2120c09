//! Opens the database: file mode, pragmas, damage, schema.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rusqlite_migration::{M, Migrations};

use super::StoreError;

/// Marks the file as ours (`PRAGMA application_id`): "SDWN".
const APPLICATION_ID: i32 = 0x5344_574e;
/// Above this size only the tables that matter are checked at the start: the rest would take too long.
const FULL_CHECK_BYTES: u64 = 256 << 20;
/// Tables whose content is carried over from a damaged database.
const DURABLE_TABLES: [&str; 8] =
    ["sites", "uplinks", "policies", "own_sequence", "announcements", "revocations", "api_tokens", "audit"];

/// What each version of the schema adds. A step that was ever released stays as it is.
pub(super) const SCHEMA: [&str; 5] = [
    include_str!("schema.sql"),
    include_str!("schema-2.sql"),
    include_str!("schema-3.sql"),
    include_str!("schema-api.sql"),
    include_str!("schema-capacity.sql"),
];
static MIGRATIONS: LazyLock<Migrations<'static>> =
    LazyLock::new(|| Migrations::new(SCHEMA.into_iter().map(M::up).collect()));
/// `PRAGMA user_version` of the current schema: the number of migrations.
pub(super) const SCHEMA_VERSION: u32 = SCHEMA.len() as u32;

/// A database ready to be written.
pub(super) struct Opened {
    /// The connection.
    pub connection: Connection,
    /// What happened to a damaged predecessor, for the operator.
    pub moved_aside: Option<String>,
}

/// Opens or makes the database.
pub(super) fn open(path: &Path) -> Result<Opened, StoreError> {
    make_file(path)?;
    let marker = damage_marker(path);
    if !marker.exists() {
        match prepare(path) {
            Err(error) if is_damage(&error) => {}
            outcome => return outcome.map(|connection| Opened { connection, moved_aside: None }),
        }
    }
    let aside = move_aside(path)?;
    make_file(path)?;
    let mut connection = prepare(path)?;
    let saved = salvage(&aside, &mut connection);
    match std::fs::remove_file(&marker) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::File { action: "remove", path: marker, source: error });
        }
        _ => {}
    }
    let moved_aside =
        Some(format!("the database was damaged and is now {}; a fresh one was made, {saved}", aside.display()));
    Ok(Opened { connection, moved_aside })
}

/// Exists after damage was found while running: the next start moves the database aside.
pub(super) fn damage_marker(path: &Path) -> PathBuf {
    with_suffix(path, ".damaged")
}

/// Databases up to this size, bytes, are looked through whole while they are in use: it takes milliseconds.
const SMALL: u64 = 16 << 20;

/// Looks at a database that is in use, with a connection that remembers nothing: the writer's own works on with the pages
/// that it holds, whatever becomes of the file. Of a large database only the schema and a little of the longest tables is
/// read.
pub(super) fn look(path: &Path, size_bytes: u64) -> rusqlite::Result<()> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(1))?;
    connection.query_row(
        "SELECT (SELECT count(*) FROM sqlite_schema), (SELECT max(id) FROM events), (SELECT time_s FROM path_metrics LIMIT 1)",
        [],
        |_| Ok(()),
    )?;
    if size_bytes > SMALL {
        return Ok(());
    }
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(code, Some(found)))
}

/// Is the file itself broken, rather than out of reach?
pub(super) fn is_damage_code(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn is_damage(error: &StoreError) -> bool {
    matches!(error, StoreError::Sqlite { source, .. } if is_damage_code(source))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the file for its owner only; SQLite gives its companions the same mode.
fn make_file(path: &Path) -> Result<(), StoreError> {
    let error = |source| StoreError::File { action: "create the database", path: path.into(), source };
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(error)?;
    }
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(error).map(drop)
}

fn prepare(path: &Path) -> Result<Connection, StoreError> {
    let sqlite = |action| move |source| StoreError::Sqlite { action, path: path.into(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(sqlite("open the database"))?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(sqlite("open the database"))?;
    let pragma = |name| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0));
    let found = pragma("user_version").map_err(sqlite("read the database"))?;
    let application = pragma("application_id").map_err(sqlite("read the database"))?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sqlite("read the database"))?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(StoreError::Foreign { path: path.into() });
    }
    if found > SCHEMA_VERSION as i32 {
        return Err(StoreError::Newer { path: path.into(), found: found as u32, known: SCHEMA_VERSION });
    }
    if tables > 0 {
        check(&connection, path)?;
    }
    connection
        .execute_batch(&format!(
            "PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA application_id = {APPLICATION_ID};
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON;
             PRAGMA journal_size_limit = 16777216;
             PRAGMA temp_store = MEMORY;"
        ))
        .map_err(sqlite("set up the database"))?;
    MIGRATIONS.to_latest(&mut connection).map_err(|error| match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => sqlite("bring to the current schema the database")(err),
        other => StoreError::Migration { path: path.into(), reason: other.to_string() },
    })?;
    connection.execute_batch("PRAGMA synchronous = NORMAL;").map_err(sqlite("set up the database"))?;
    Ok(connection)
}

/// Reads the pages; a broken one is reported as SQLite would report it on use.
fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let error = |source| StoreError::Sqlite { action: "check the database", path: path.into(), source };
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let checks: Vec<String> = if size <= FULL_CHECK_BYTES {
        vec!["PRAGMA quick_check(1)".into()]
    } else {
        DURABLE_TABLES.iter().map(|table| format!("PRAGMA quick_check('{table}')")).collect()
    };
    for check in checks {
        let verdict: String = connection.query_row(&check, [], |row| row.get(0)).map_err(error)?;
        if verdict != "ok" {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(error(rusqlite::Error::SqliteFailure(code, Some(verdict))));
        }
    }
    Ok(())
}

fn move_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let free = |number: u32| {
        let suffix = if number == 0 { format!(".damaged-{now}") } else { format!(".damaged-{now}-{number}") };
        Some(with_suffix(path, &suffix)).filter(|aside| !aside.exists())
    };
    let aside = (0..).find_map(free).unwrap_or_else(|| with_suffix(path, ".damaged-last"));
    for companion in ["", "-wal", "-shm"] {
        let (from, to) = (with_suffix(path, companion), with_suffix(&aside, companion));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::File { action: "move aside", path: from, source }),
            Ok(()) => {}
        }
    }
    Ok(aside)
}

/// Carries over what can be read of the configuration; tells how much in a sentence's end.
fn salvage(aside: &Path, fresh: &mut Connection) -> String {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut saved = Vec::new();
    let mut lost = Vec::new();
    match Connection::open_with_flags(aside, flags) {
        Ok(damaged) => {
            for table in DURABLE_TABLES {
                let (rows, complete) = copy(&damaged, fresh, table);
                if rows > 0 {
                    saved.push(format!("{rows} of {table}"));
                }
                if !complete {
                    lost.push(table);
                }
            }
        }
        Err(_) => lost.extend(DURABLE_TABLES),
    }
    let saved =
        if saved.is_empty() { "with nothing from the old one".into() } else { format!("with {}", saved.join(", ")) };
    if lost.is_empty() {
        return saved;
    }
    format!("{saved}; could not be read to the end: {}. Check `sdwan policies list`", lost.join(", "))
}

/// Rows copied, and whether those were all.
fn copy(damaged: &Connection, fresh: &mut Connection, table: &str) -> (usize, bool) {
    let mut copied = 0;
    let mut work = || -> rusqlite::Result<()> {
        let mut select = damaged.prepare(&format!("SELECT * FROM {table}"))?;
        let columns = select.column_count();
        let places = vec!["?"; columns].join(", ");
        let transaction = fresh.transaction()?;
        let mut outcome = Ok(());
        {
            let mut insert = transaction.prepare(&format!("INSERT OR IGNORE INTO {table} VALUES ({places})"))?;
            let mut rows = select.query([])?;
            loop {
                let row = match rows.next() {
                    Ok(Some(row)) => row,
                    Ok(None) => break,
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                };
                let values: rusqlite::Result<Vec<Value>> = (0..columns).map(|column| row.get(column)).collect();
                match values.and_then(|values| insert.execute(rusqlite::params_from_iter(values))) {
                    Ok(rows) => copied += rows,
                    Err(error) => outcome = Err(error),
                }
            }
        }
        transaction.commit()?;
        outcome
    };
    let complete = work().is_ok();
    (copied, complete)
}
