use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use super::retention::Housekeeping;
use super::*;
use crate::config::Config;
use crate::config::units::Size;
use crate::engine::events::{EngineEvent, EventKind};
use crate::engine::policy::default_policies;
use crate::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};
use crate::trust::persist::{SequenceStore, StoredAnnouncement, StoredRevocations};

pub(super) fn retention() -> StoreConfig {
    Config::default().store
}

pub(super) fn fresh() -> (TempDir, PathBuf, Store) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/sdwan.db");
    let store = Store::open(&path, &retention()).unwrap();
    (directory, path, store)
}

pub(super) fn uplink(index: u8) -> UplinkIndex {
    UplinkIndex::new(index).unwrap()
}

pub(super) fn path_key() -> PathKey {
    PathKey { site: SiteId([7; 16]), tunnel: TunnelKey { local: uplink(0), remote: uplink(1) } }
}

/// Far in the future, so that the store's own housekeeping, whose clock is the machine's, removes nothing.
pub(super) const START_S: i64 = 4_000_000_000 / 3_600 * 3_600;
const START_NS: i64 = START_S * 1_000_000_000;

/// An event so many nanoseconds after the start.
fn event(time: i64, kind: EventKind) -> Record {
    let event = EngineEvent::new(kind, format!("number {time}")).with_path(path_key());
    Record::Event { time_unix_ns: START_NS + time, event: Box::new(event) }
}

pub(super) fn metrics(time: i64, rtt: f64) -> Record {
    Record::PathMetrics(Box::new(PathMetrics {
        up: true,
        known_ms: 10_000,
        up_ms: 9_000,
        score: 90.0,
        rtt_ms: Some(rtt),
        jitter_forward_ms: 1.0,
        jitter_backward_ms: 2.0,
        loss_forward_pct: Some(0.0),
        mos: Some(4.2),
        sent_packets: 10,
        sent_bytes: 1_000,
        received_packets: 20,
        received_bytes: 2_000,
        ..PathMetrics::unmeasured(path_key(), time)
    }))
}

fn announcement(site: u8, sequence: u64) -> StoredAnnouncement {
    StoredAnnouncement { site: SiteId([site; 16]), sequence, accepted_unix: 5, bytes: Arc::from([1, 2, 3]) }
}

/// The files as a power cut would leave them: what is in the page cache of the process is not copied.
fn snapshot(path: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(path, to).unwrap();
    for companion in ["-wal", "-shm"] {
        let name = |path: &Path| PathBuf::from(format!("{}{companion}", path.display()));
        if name(path).exists() && companion == "-wal" {
            std::fs::copy(name(path), name(to)).unwrap();
        }
    }
}

#[test]
fn events_come_back_in_order_and_filtered() {
    let (_directory, _, store) = fresh();
    for time in 1..=5 {
        store.record(event(time, if time % 2 == 0 { EventKind::PathDown } else { EventKind::PathUp }));
    }
    store.flush().unwrap();
    let times = |query: EventQuery| -> Vec<i64> {
        store.events(&query).unwrap().iter().map(|event| event.time_unix_ns - START_NS).collect()
    };
    assert_eq!(times(EventQuery::default()), [1, 2, 3, 4, 5]);
    assert_eq!(times(EventQuery { limit: 2, ..EventQuery::default() }), [4, 5], "the latest ones");
    assert_eq!(times(EventQuery { kinds: vec![EventKind::PathDown], ..EventQuery::default() }), [2, 4]);
    assert_eq!(times(EventQuery { since_unix_ns: Some(START_NS + 4), ..EventQuery::default() }), [4, 5]);
    assert!(times(EventQuery { site: Some(SiteId([9; 16])), ..EventQuery::default() }).is_empty());
    let second = store.events(&EventQuery::default()).unwrap()[1].id;
    assert_eq!(times(EventQuery { after_id: Some(second), limit: 2, ..EventQuery::default() }), [3, 4]);
    assert_eq!(store.events(&EventQuery::default()).unwrap()[0].event.path, Some(path_key()));
}

#[test]
fn records_are_written_without_being_asked_to() {
    let (_directory, _, store) = fresh();
    store.record(metrics(START_S, 20.0));
    let deadline = Instant::now() + Duration::from_secs(10);
    while store.health().written == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let history = store.path_history(&path_key(), Resolution::Raw, 0, i64::MAX, 10).unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!(store.sites().unwrap()[0].id, path_key().site, "the path's site exists though it was never recorded");
}

#[test]
fn a_durable_change_survives_a_power_cut_right_after_it() {
    let (directory, path, store) = fresh();
    store.save_policies(&default_policies()[1..=1], false).unwrap();
    store.sequences().record(&[announcement(1, 8)]).unwrap();
    let copy = directory.path().join("after/sdwan.db");
    snapshot(&path, &copy);
    let after = Store::open(&copy, &retention()).unwrap();
    assert_eq!(after.health().moved_aside, None);
    assert_eq!(after.policies().unwrap(), [default_policies().remove(1)]);
    assert_eq!(after.sequences().load().unwrap(), [announcement(1, 8)]);
}

#[test]
fn policies_are_added_replaced_and_removed() {
    let (_directory, _, store) = fresh();
    let policy = default_policies().remove(0);
    store.save_policies(std::slice::from_ref(&policy), false).unwrap();
    let conflict = store.save_policies(std::slice::from_ref(&policy), false).unwrap_err().to_string();
    assert!(conflict.contains("--replace"), "{conflict}");
    let changed = crate::engine::policy::Policy { priority: 7, ..policy };
    store.save_policies(std::slice::from_ref(&changed), true).unwrap();
    assert_eq!(store.policies().unwrap(), [changed]);
    let together = [default_policies().remove(1), default_policies().remove(0)];
    store.save_policies(&together, false).unwrap_err();
    assert_eq!(store.policies().unwrap().len(), 1, "all or none");
    assert!(store.remove_policy("voip-video").unwrap());
    assert!(!store.remove_policy("voip-video").unwrap());
}

#[test]
fn an_uplink_keeps_its_index_whatever_else_comes_and_goes() {
    let (_directory, path, store) = fresh();
    let indices = |store: &Store, names: &[(&str, Option<u8>)]| -> Vec<u8> {
        let uplinks: Vec<_> = names.iter().map(|(name, index)| ((*name).to_owned(), index.map(uplink))).collect();
        let given = store.uplink_indices(&uplinks).unwrap();
        names.iter().map(|(name, _)| given[*name].get()).collect()
    };
    assert_eq!(indices(&store, &[("fibre", None), ("lte", None)]), [0, 1]);
    assert_eq!(indices(&store, &[("lte", None), ("dsl", None)]), [1, 2]);
    store.close().unwrap();
    let store = Store::open(&path, &retention()).unwrap();
    assert_eq!(indices(&store, &[("dsl", None), ("fibre", None), ("lte", None)]), [2, 0, 1]);
    assert_eq!(indices(&store, &[("cable", Some(1)), ("lte", None)]), [1, 3], "a wanted index is taken over");
    let many: Vec<(String, Option<u8>)> = (0..8).map(|n| (format!("u{n}"), None)).collect();
    let many: Vec<(&str, Option<u8>)> = many.iter().map(|(name, index)| (name.as_str(), *index)).collect();
    let mut all = indices(&store, &many);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7], "names that are gone make room");
    let nine: Vec<(String, Option<UplinkIndex>)> = (0..9).map(|n| (format!("u{n}"), None)).collect();
    assert!(store.uplink_indices(&nine).is_err());
}

#[test]
fn sequence_numbers_never_go_back() {
    let (_directory, path, store) = fresh();
    let mut sequences = store.sequences();
    sequences.record(&[announcement(1, 5), announcement(2, 9)]).unwrap();
    sequences.record(&[announcement(1, 4)]).unwrap();
    assert_eq!(sequences.load().unwrap(), [announcement(1, 5), announcement(2, 9)]);
    sequences.forget(SiteId([1; 16])).unwrap();
    assert_eq!((sequences.load().unwrap()[0].sequence, sequences.load().unwrap()[0].bytes.len()), (5, 0));
    assert_eq!(sequences.reserve_own(10, 0).unwrap(), 1);
    assert_eq!(sequences.reserve_own(10, 0).unwrap(), 11);
    assert_eq!(sequences.reserve_own(1, 1_000).unwrap(), 1_000);
    assert!(sequences.reserve_own(u64::MAX, 0).is_err());
    let page = |number| StoredRevocations { page: 3, number, bytes: Arc::from([4]) };
    sequences.record_revocations(&page(2)).unwrap();
    sequences.record_revocations(&page(1)).unwrap();
    assert_eq!(sequences.load_revocations().unwrap(), [page(2)]);
    store.close().unwrap();
    let mut sequences = Store::open(&path, &retention()).unwrap().sequences();
    assert_eq!(sequences.reserve_own(1, 0).unwrap(), 1_001);
}

#[test]
fn a_writer_that_is_held_up_holds_up_no_recorder_and_no_reader() {
    let (_directory, path, store) = fresh();
    store.record(event(1, EventKind::PathUp));
    store.flush().unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::spawn({
        let store = store.clone();
        // Makes the writer run into the lock.
        move || store.flush()
    });
    let start = Instant::now();
    let count = QUEUE_CAPACITY as i64 + 100;
    for time in 0..count {
        store.record(event(time, EventKind::PathUp));
    }
    assert!(start.elapsed() < Duration::from_secs(4), "recording took {:?}", start.elapsed());
    assert_eq!(store.events(&EventQuery::default()).unwrap().len(), 1, "readers go on");
    let health = store.health();
    assert!(health.dropped >= 100, "{health:?}");
    assert!(health.queued <= QUEUE_CAPACITY as u64, "{health:?}");
    other.execute_batch("ROLLBACK").unwrap();
    store.flush().unwrap();
    let health = store.health();
    assert_eq!(health.written + health.dropped, count as u64 + 1, "each record is written or counted: {health:?}");
}

/// Runs in a mount namespace of its own, on a file system of this many KiB. `false`: not allowed to make one.
fn on_small_disk(kibibytes: u32, test: impl FnOnce(&Path) + Send + 'static) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    let thread = std::thread::spawn(move || {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        let made = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            let options = format!("size={kibibytes}k");
            mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        });
        if let Err(errno) = made {
            eprintln!("SKIPPED: a small disk needs CAP_SYS_ADMIN for a mount namespace: {errno}");
            return false;
        }
        test(&root);
        true
    });
    thread.join().expect("the test on the small disk failed")
}

#[test]
fn a_full_disk_is_reported_and_nothing_is_lost_once_there_is_room() {
    on_small_disk(2_048, |root| {
        let store = Store::open(&root.join("sdwan.db"), &retention()).unwrap();
        store.save_policies(&default_policies()[0..=0], false).unwrap();
        let filler = root.join("filler");
        let filled = std::fs::write(&filler, vec![0; 4 << 20]);
        assert!(filled.is_err(), "the disk is full now");
        for time in 0..2_000 {
            store.record(event(time, EventKind::PathUp));
        }
        store.flush().unwrap();
        let health = store.health();
        assert!(!health.ok && health.errors > 0, "{health:?}");
        assert!(health.trouble.as_ref().is_some_and(|trouble| trouble.contains("Make room on the disk")), "{health:?}");
        assert_eq!(health.queued, 2_000, "they wait");
        let refused = store.save_policies(&default_policies()[1..=1], false);
        assert!(refused.is_err(), "a durable change says that it failed");
        assert_eq!(store.policies().unwrap().len(), 1, "and leaves what was there");

        std::fs::remove_file(&filler).unwrap();
        store.flush().unwrap();
        let health = store.health();
        assert!(health.ok && health.trouble.is_none(), "{health:?}");
        assert_eq!((health.written, health.dropped), (2_000, 0), "{health:?}");
        store.save_policies(&default_policies()[1..=1], false).unwrap();
    });
}

#[test]
fn a_damaged_database_is_moved_aside_and_the_operator_told() {
    for damage in ["garbage", "truncated", "page"] {
        let (directory, path, store) = fresh();
        store.save_policies(&default_policies()[0..=0], false).unwrap();
        for time in 0..3_000 {
            store.record(event(time, EventKind::PathUp));
        }
        store.flush().unwrap();
        store.close().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            "garbage" => bytes = b"this is no database, whatever it says".repeat(200),
            "truncated" => bytes.truncate(bytes.len() / 2),
            _ => {
                let last = bytes.len() / 4096 * 4096 - 20 * 4096;
                bytes[last..last + 8 * 4096].fill(0xa5);
            }
        }
        std::fs::write(&path, bytes).unwrap();
        let store = Store::open(&path, &retention()).unwrap();
        let told = store.health().moved_aside.unwrap_or_else(|| panic!("{damage}: nobody was told"));
        assert!(told.contains("sdwan.db.damaged-"), "{told}");
        let kept = std::fs::read_dir(path.parent().unwrap())
            .unwrap()
            .any(|file| file.unwrap().file_name().to_string_lossy().starts_with("sdwan.db.damaged-"));
        assert!(kept, "{damage}: the damaged file is kept");
        if damage == "page" {
            assert_eq!(store.policies().unwrap().len(), 1, "{damage}: policies are carried over: {told}");
        }
        store.save_policies(&default_policies()[2..=2], true).unwrap();
        drop(directory);
    }
}

#[test]
fn damage_of_a_database_that_is_in_use_is_seen_although_the_writer_works_on() {
    for (from, bytes) in [(0, 4096), (40 * 4096, 16 * 4096)] {
        let (_directory, path, store) = fresh();
        for time in 0..3_000 {
            store.record(event(time, EventKind::PathUp));
        }
        store.flush().unwrap();
        let size = || std::fs::metadata(&path).unwrap().len();
        // What is in the log is written to the file, so that the file is what is read.
        Connection::open(&path).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        open::look(&path, size()).unwrap();
        assert!(size() > 60 * 4096, "{} bytes", size());
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xa5; bytes], from).unwrap();
        let error = open::look(&path, size()).unwrap_err();
        assert!(open::is_damage_code(&error), "{from}: {error}");
    }
}

#[test]
fn damage_found_while_running_is_reported_and_mended_at_the_next_start() {
    let (_directory, path, store) = fresh();
    store.sequences().reserve_own(50, 0).unwrap();
    store.close().unwrap();
    std::fs::write(open::damage_marker(&path), "found while writing").unwrap();
    let store = Store::open(&path, &retention()).unwrap();
    assert!(store.health().moved_aside.is_some());
    assert_eq!(store.sequences().reserve_own(1, 0).unwrap(), 51, "sequence numbers are carried over");
    store.close().unwrap();
    assert_eq!(Store::open(&path, &retention()).unwrap().health().moved_aside, None, "once");
}

#[test]
fn a_newer_schema_and_a_foreign_database_are_refused_and_left_alone() {
    let (_directory, path, store) = fresh();
    store.close().unwrap();
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let error = Store::open(&path, &retention()).unwrap_err().to_string();
    assert!(error.contains("schema 99") && error.contains("newer sdwan wrote it"), "{error}");

    let directory = tempfile::tempdir().unwrap();
    let foreign = directory.path().join("other.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    let error = Store::open(&foreign, &retention()).unwrap_err().to_string();
    assert!(error.contains("another program"), "{error}");
    let tables: i64 = Connection::open(&foreign)
        .unwrap()
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 1);
}

#[test]
fn the_schema_in_force_is_the_one_the_program_says() {
    let (_directory, path, _store) = fresh();
    let connection = Connection::open(&path).unwrap();
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, open::SCHEMA_VERSION);
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    let loose: i64 = connection
        .query_row(
            "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite_%' AND strict = 0",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(loose, 0, "every table is STRICT");
}

#[test]
fn the_history_of_an_older_schema_is_kept_and_goes_on() {
    let (_directory, path, store) = fresh();
    store.close().unwrap();
    // Back to the first schema, as a daemon of then left it.
    let old = Connection::open(&path).unwrap();
    let (site, path_row, metric) = (
        "INSERT INTO sites VALUES (zeroblob(16), 'old', 1, 1, 'active', '[]')",
        "INSERT INTO paths VALUES (9, zeroblob(16), 0, 1)",
        format!(
            "INSERT INTO path_metrics VALUES (9, 0, {START_S}, 1, 1, 90.0, 7.0, 7.0, 7.0, 1.0, 1.0, 0.0, 0.0, 4.2, 1, 2, 3, 4)"
        ),
    );
    let tables = "PRAGMA foreign_keys = OFF; DROP TABLE path_metrics; DROP TABLE paths; DROP TABLE sites;
                  DROP TABLE uplinks; DROP TABLE rollups; DROP TABLE policies; DROP TABLE events; DROP TABLE flow_samples;
                  DROP TABLE own_sequence; DROP TABLE announcements; DROP TABLE revocations; DROP TABLE remote_uplinks;
                  DROP TABLE uplink_metrics; DROP TABLE site_classes; DROP TABLE class_metrics; DROP TABLE api_tokens;
                  DROP TABLE audit; PRAGMA user_version = 1;";
    old.execute_batch(tables).unwrap();
    old.execute_batch(open::SCHEMA[0]).unwrap();
    for statement in [site, path_row, &metric] {
        old.execute_batch(statement).unwrap();
    }
    drop(old);

    let store = Store::open(&path, &retention()).unwrap();
    store.record(metrics(START_S + 10, 8.0));
    store.flush().unwrap();
    let key = PathKey { site: SiteId([0; 16]), ..path_key() };
    let history = store.path_history(&key, Resolution::Raw, 0, i64::MAX, 10).unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!((history[0].rtt_ms, history[0].received_bytes), (Some(7.0), 4));
    assert_eq!((history[0].data_loss_forward_pct, history[0].data_loss_forward_packets), (None, 0));
    assert_eq!((history[0].tcp_rtt_ms, history[0].tcp_rtt_min_ms), (None, None));
    let series = store.read(|reader| reader.path_series(&key, START_S - 60, START_S + 60, 100)).unwrap();
    assert_eq!(series.points.len(), 1);
    assert_eq!((series.points[0].rtt.value(), series.points[0].capacity.value()), (Some(7.0), None));
    assert_eq!(
        store.path_history(&path_key(), Resolution::Raw, 0, i64::MAX, 10).unwrap().len(),
        1,
        "new ones are kept"
    );
}

#[test]
fn only_the_owner_may_read_the_database() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, path, _store) = fresh();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn readers_go_on_while_much_is_written() {
    let (_directory, _, store) = fresh();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || {
                let mut last = 0;
                for _ in 0..50 {
                    let seen = store.events(&EventQuery { limit: 100_000, ..EventQuery::default() }).unwrap().len();
                    assert!(seen >= last, "events vanished");
                    last = seen;
                }
            })
        })
        .collect();
    for time in 0..5_000 {
        store.record(event(time, EventKind::ClassMoved));
        if time % 500 == 0 {
            store.flush().unwrap();
        }
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    store.flush().unwrap();
    assert_eq!(store.health().written, 5_000);
}

/// Works through all old history at once.
pub(super) fn housekeep(path: &Path, config: &StoreConfig, now: i64) {
    let mut connection = Connection::open(path).unwrap();
    let housekeeping = Housekeeping::new(config.clone());
    for _ in 0..10_000 {
        if !housekeeping.step(&mut connection, now).unwrap().more {
            return;
        }
    }
    panic!("housekeeping doesn't end");
}

#[test]
fn metrics_are_rolled_up_and_old_ones_removed() {
    let (_directory, path, store) = fresh();
    let start = START_S;
    for index in 0..720 {
        store.record(metrics(start + index * 10, (index % 6) as f64));
    }
    store.flush().unwrap();
    store.close().unwrap();
    let day = 86_400;
    housekeep(&path, &retention(), start + day);
    let reader = Reader::open(&path).unwrap();
    let history = |resolution| reader.path_history(&path_key(), resolution, 0, i64::MAX, 10_000).unwrap();
    assert_eq!(history(Resolution::Raw).len(), 0, "raw ones are kept for six hours");
    assert_eq!(history(Resolution::Minute).len(), 120);
    let hours = history(Resolution::Hour);
    assert_eq!(hours.len(), 2);
    let point = &history(Resolution::Minute)[0];
    assert_eq!((point.samples, point.rtt_ms, point.rtt_min_ms, point.rtt_max_ms), (6, Some(2.5), Some(0.0), Some(5.0)));
    assert_eq!((hours[1].samples, hours[1].sent_bytes, hours[1].up_share), (360, 360_000, 1.0));

    housekeep(&path, &retention(), start + 30 * day);
    assert_eq!((history(Resolution::Minute).len(), history(Resolution::Hour).len()), (0, 2));
    housekeep(&path, &retention(), start + 500 * day);
    assert_eq!(history(Resolution::Hour).len(), 0);
}

#[test]
fn loss_of_the_data_and_tcps_round_trip_time_are_kept_and_rolled_up_by_packets() {
    let (_directory, path, store) = fresh();
    // Loss of the data towards the peer and from it, with the packets that each rests on; TCP's median and minimum.
    let quiet = (None, 0, None, 0, None, None);
    let busy = (Some(10.0), 900, Some(0.5), 2_000, Some(30.0), Some(22.0));
    let calm = (Some(0.0), 100, None, 0, Some(20.0), Some(19.0));
    for (index, of) in [quiet, busy, calm, quiet, quiet, quiet, quiet].into_iter().enumerate() {
        let Record::PathMetrics(mut record) = metrics(START_S + 10 * index as i64, 5.0) else { unreachable!() };
        (record.data_loss_forward_pct, record.data_loss_forward_packets) = (of.0, of.1);
        (record.data_loss_backward_pct, record.data_loss_backward_packets) = (of.2, of.3);
        (record.tcp_rtt_ms, record.tcp_rtt_min_ms) = (of.4, of.5);
        store.record(Record::PathMetrics(record));
    }
    store.flush().unwrap();
    store.close().unwrap();
    let reader = Reader::open(&path).unwrap();
    let history = |resolution| {
        let points = reader.path_history(&path_key(), resolution, 0, i64::MAX, 100).unwrap();
        let numbers = points.into_iter().map(|point| {
            (
                point.data_loss_forward_pct,
                point.data_loss_forward_packets,
                point.data_loss_backward_pct,
                point.data_loss_backward_packets,
                point.tcp_rtt_ms,
                point.tcp_rtt_min_ms,
            )
        });
        numbers.collect::<Vec<_>>()
    };
    assert_eq!(history(Resolution::Raw), [quiet, busy, calm, quiet, quiet, quiet, quiet]);
    housekeep(&path, &retention(), START_S + 86_400);
    // 90 of 1,000 packets, whatever the share of each record was.
    let minute = (Some(9.0), 1_000, Some(0.5), 2_000, Some(25.0), Some(19.0));
    assert_eq!(history(Resolution::Minute), [minute, quiet]);
    assert_eq!(history(Resolution::Hour), [minute]);
}

#[test]
fn rolling_up_in_many_runs_gives_what_one_run_gives() {
    let outcome = |pauses: &[i64]| {
        let (_directory, path, store) = fresh();
        let start = START_S;
        let mut written = 0;
        for until in pauses {
            for index in written..*until {
                store.record(metrics(start + index * 10, index as f64));
            }
            written = *until;
            store.flush().unwrap();
            housekeep(&path, &retention(), start + until * 10);
        }
        housekeep(&path, &retention(), start + 3 * 3_600);
        store.path_history(&path_key(), Resolution::Hour, 0, i64::MAX, 100).unwrap()
    };
    assert_eq!(outcome(&[100, 101, 333, 500, 720]), outcome(&[720]));
}

#[test]
fn old_events_go_and_the_database_stays_within_its_size() {
    let (_directory, path, store) = fresh();
    let second = 1_000_000_000;
    let now = START_S + 200 * 86_400;
    for index in 0..20_000 {
        store.record(event((200 * 86_400 - index) * second, EventKind::PathUp));
    }
    store.record(event(100 * 86_400 * second, EventKind::PathDown));
    store.flush().unwrap();
    store.close().unwrap();
    housekeep(&path, &retention(), now);
    let reader = Reader::open(&path).unwrap();
    let all = EventQuery { limit: 100_000, ..EventQuery::default() };
    assert_eq!(reader.events(&all).unwrap().len(), 20_000, "the one of 100 days ago is gone");

    let before = std::fs::metadata(&path).unwrap().len();
    let small = StoreConfig { max_size: Size(before / 2), ..retention() };
    housekeep(&path, &small, now);
    let left = reader.events(&all).unwrap();
    assert!(!left.is_empty() && left.len() < 15_000, "{} are left", left.len());
    assert!(left.iter().all(|event| event.time_unix_ns >= (now - left.len() as i64) * second), "the latest are left");
}

#[test]
fn a_second_daemon_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/lock");
    let held = StateLock::acquire(&path).unwrap();
    let error = StateLock::acquire(&path).unwrap_err().to_string();
    assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
    assert!(error.contains("sdwan down"), "{error}");
    drop(held);
    StateLock::acquire(&path).unwrap();
}

#[test]
fn a_closed_store_says_so_instead_of_waiting() {
    let (_directory, _, store) = fresh();
    store.close().unwrap();
    store.close().unwrap();
    assert!(matches!(store.remove_policy("x"), Err(StoreError::Closed { .. })));
    assert!(matches!(store.flush(), Err(StoreError::Closed { .. })));
}
