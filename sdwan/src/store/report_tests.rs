use std::time::Duration;

use rusqlite::Connection;

use super::super::tests::{START_S, fresh, housekeep, metrics, path_key, retention, uplink};
use super::super::{ClassMetrics, Reader, Record, SiteRecord, UplinkMetrics};
use super::*;
use crate::engine::account::Times;

/// What is recorded every ten seconds: the path of the others' tests, an uplink that is up for less, a class.
fn ten_seconds(time: i64) -> [Record; 3] {
    let second = Duration::from_secs(1);
    let times = Times { kept: second * 7, broken: second * 2, without: second };
    [
        metrics(time, 20.0),
        Record::UplinkMetrics(UplinkMetrics { time_unix_s: time, uplink: uplink(0), known_ms: 10_000, up_ms: 9_500 }),
        Record::ClassMetrics(Box::new(ClassMetrics {
            time_unix_s: time,
            site: path_key().site,
            class: "voice".into(),
            sla: "loss 1 %".into(),
            times,
        })),
    ]
}

fn site(uplinks: &[(u8, &str)]) -> Record {
    Record::Site(Box::new(SiteRecord {
        time_unix_s: START_S,
        id: path_key().site,
        name: "berlin".into(),
        state: "active".into(),
        prefixes: Vec::new(),
        uplinks: uplinks.iter().map(|(index, name)| (uplink(*index), (*name).to_owned())).collect(),
    }))
}

#[test]
fn a_span_gives_the_same_sums_before_and_after_roll_ups_and_expiry() {
    let (_directory, path, store) = fresh();
    // Three hours and a bit, with a gap of a quarter of an hour in which nobody watched.
    let (hours, gap) = (3 * 3_600 + 600, 4_500..5_400);
    store.record(site(&[(1, "cable")]));
    for time in (10..=hours).step_by(10).filter(|time| !gap.contains(time)) {
        ten_seconds(START_S + time).into_iter().for_each(|record| store.record(record));
    }
    store.flush().unwrap();
    store.close().unwrap();
    let reader = Reader::open(&path).unwrap();
    let sums = |span: Span| {
        let history = reader.span_history(span).unwrap();
        let mut path = PathSums::default();
        history.paths.iter().flat_map(|path| &path.steps).for_each(|step| path.add(step));
        let uplink: i64 = history.uplinks.iter().map(|sums| sums.up_ms).sum();
        let class = |of: fn(&ClassSums) -> i64| history.classes.iter().map(of).sum::<i64>();
        let classes = (class(|sums| sums.kept_ms), class(|sums| sums.broken_ms), class(|sums| sums.without_ms));
        (path.known_ms, path.up_ms, path.rtt.value(), path.sent_bytes, uplink, classes)
    };
    let records = (hours - 900) / 10;
    let expected = (
        records * 10_000,
        records * 9_000,
        Some(20.0),
        records * 1_000,
        records * 9_500,
        (records * 7_000, records * 2_000, records * 1_000),
    );
    let (from, to) = (START_S, START_S + hours + 60);
    // The three resolutions that a span may rest on, each as time goes by.
    let spans = [
        Span { base: Resolution::Raw, ..Span::new(from, to) },
        Span { base: Resolution::Minute, ..Span::new(from, to) },
        Span { base: Resolution::Hour, ..Span::new(from, to) },
    ];
    for now in [0, hours / 2, hours + 300, 86_400, 30 * 86_400] {
        housekeep(&path, &retention(), START_S + now);
        for span in spans {
            assert_eq!(sums(span), expected, "{:?} after {now} s", span.base);
        }
    }
    let history = reader.span_history(Span::new(from, to)).unwrap();
    assert_eq!(
        (history.paths[0].site_name.as_str(), history.paths[0].remote_name.as_deref()),
        ("berlin", Some("cable"))
    );
    assert_eq!(history.classes[0].sla, "loss 1 %");
    assert_eq!(history.begins, Some(START_S));
    let nothing = reader.span_history(Span::new(from - 86_400, from - 3_600)).unwrap();
    assert_eq!((nothing.paths.len(), nothing.uplinks.len(), nothing.classes.len()), (0, 0, 0));
}

#[test]
fn history_of_before_exact_times_counts_ten_seconds_for_each_sample() {
    let (_directory, path, store) = fresh();
    store.record(metrics(START_S, 20.0));
    store.flush().unwrap();
    store.close().unwrap();
    let old = "UPDATE path_metrics SET known_ms = NULL, up_ms = NULL, samples = 6, up_samples = 5, resolution_s = 60";
    Connection::open(&path).unwrap().execute_batch(old).unwrap();
    housekeep(&path, &retention(), START_S + 60);
    Connection::open(&path).unwrap().execute_batch("INSERT OR REPLACE INTO rollups VALUES (60, 4000003600)").unwrap();
    let reader = Reader::open(&path).unwrap();
    let history = reader.span_history(Span::new(START_S, START_S + 60)).unwrap();
    assert_eq!((history.paths[0].steps[0].known_ms, history.paths[0].steps[0].up_ms), (60_000, 50_000));
    housekeep(&path, &retention(), START_S + 30 * 86_400);
    let history = reader.span_history(Span::new(START_S, START_S + 30 * 86_400)).unwrap();
    assert_eq!((history.paths[0].steps[0].known_ms, history.paths[0].steps[0].up_ms), (60_000, 50_000));
}

#[test]
fn the_bounds_of_a_class_are_those_that_it_had_last() {
    let (_directory, _, store) = fresh();
    for (time, sla) in [(0, "loss 1 %"), (10, "loss 2 %")] {
        let Record::ClassMetrics(metrics) = ten_seconds(START_S + time).into_iter().last().unwrap() else { panic!() };
        store.record(Record::ClassMetrics(Box::new(ClassMetrics { sla: sla.into(), ..*metrics })));
    }
    store.record(site(&[(1, "cable")]));
    store.record(site(&[(1, "dsl")]));
    store.record(site(&[]));
    store.flush().unwrap();
    let history = store.read(|reader| reader.span_history(Span::new(START_S, START_S + 60))).unwrap();
    assert_eq!(history.classes.len(), 1, "one class, whatever its bounds were");
    assert_eq!((history.classes[0].sla.as_str(), history.classes[0].kept_ms), ("loss 2 %", 14_000));
    let name = store.read(|reader| reader.rows("SELECT name FROM remote_uplinks", [], |row| row.get::<_, String>(0)));
    assert_eq!(name.unwrap(), ["dsl"], "an inactive site's uplinks keep their names");
}

/// Bytes that a database takes once it holds what the default retention keeps of so many paths and classes at sites.
fn size_when_full(paths: i64, classes: i64, uplinks: i64) -> u64 {
    let (_directory, path, store) = fresh();
    store.record(metrics(START_S, 20.0));
    store.flush().unwrap();
    store.close().unwrap();
    let mut connection = Connection::open(&path).unwrap();
    let config = retention();
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap();
    let transaction = connection.transaction().unwrap();
    let fill = |sql: String| transaction.execute_batch(&sql).unwrap();
    fill(format!(
        "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {paths})
         INSERT INTO sites SELECT CAST(printf('%016d', value) AS BLOB), 'site', 0, 0, 'active', '[]' FROM n;
         INSERT INTO paths SELECT 10 + row_number() OVER (), id, 0, 0 FROM sites WHERE name = 'site';
         WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {classes})
         INSERT INTO site_classes
         SELECT value, (SELECT id FROM sites WHERE name = 'site'), 'class ' || value, 'loss 1 %' FROM n;"
    ));
    // Numbers like those that are measured, with all their digits, for what is round would be stored in fewer bytes; and in
    // the order in which they come, for pages that are split are half empty.
    for (resolution, keep) in [(0, config.raw_metrics), (60, config.minute_metrics), (3_600, config.hour_metrics)] {
        let (keep, pace, samples) = (seconds(keep), resolution.max(10), (resolution / 10).max(1));
        fill(format!(
            "WITH RECURSIVE t(time) AS (SELECT {START_S} - {keep} UNION ALL SELECT time + {pace} FROM t WHERE time < {START_S}),
                  r(x) AS (SELECT 0.123456789)
             INSERT INTO path_metrics
             SELECT paths.id, {resolution}, time, {samples}, {samples}, 90.0 + (time % 97) * x, 20.0 + (time % 89) * x,
                    19.0 + (time % 83) * x, 31.0 + (time % 79) * x, (time % 73) * x, (time % 71) * x, (time % 67) * x,
                    (time % 61) * x, 4.0 + x, {samples} * (time % 997), {samples} * (time % 9973) * 1000, {samples} * (time % 991),
                    {samples} * (time % 9967) * 1000, (time % 59) * x, time % 9949, (time % 53) * x, time % 9941, 25.0 + (time % 47) * x,
                    21.0 + (time % 43) * x, {pace} * 1000, {pace} * 1000 - time % 41,
                    99000000 + time % 9973, 49000000 + time % 9967
             FROM t CROSS JOIN paths CROSS JOIN r WHERE paths.id > 10;
             WITH RECURSIVE t(time) AS (SELECT {START_S} - {keep} UNION ALL SELECT time + {pace} FROM t WHERE time < {START_S})
             INSERT INTO class_metrics SELECT {resolution}, time, id, {pace} * 1000 - time % 37, time % 37, 0
             FROM t CROSS JOIN site_classes;
             WITH RECURSIVE t(time) AS (SELECT {START_S} - {keep} UNION ALL SELECT time + {pace} FROM t WHERE time < {START_S}),
                  n(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM n WHERE value < {uplinks} - 1)
             INSERT INTO uplink_metrics SELECT {resolution}, time, value, {pace} * 1000, {pace} * 1000 - time % 37
             FROM t CROSS JOIN n;"
        ));
    }
    transaction.commit().unwrap();
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).unwrap();
    u64::try_from((pragma("page_count") - pragma("freelist_count")) * pragma("page_size")).unwrap()
}

#[test]
fn a_year_of_a_hundred_paths_takes_less_than_a_gigabyte() {
    // Of few paths, and reckoned up: each path's rows are their own. 25 sites of four paths, with four classes each.
    let (few, many) = (size_when_full(2, 2, 1), size_when_full(4, 4, 2));
    let of_two = many - few;
    let hundred = few + of_two * 49;
    let rows = |seconds: i64, pace: i64| seconds / pace;
    println!(
        "100 paths and 100 classes at sites: {} MiB, {} bytes a path and class ({} rows each)",
        hundred >> 20,
        of_two / 2,
        rows(6 * 3_600, 10) + rows(14 * 86_400, 60) + rows(400 * 86_400, 3_600)
    );
    assert!(retention().hour_metrics >= Duration::from_secs(366 * 86_400), "a year is kept");
    assert!(hundred < 1_000_000_000, "{hundred} bytes");
    assert!(hundred < retention().max_size.0, "the limit of the database cuts no year short");
}
