use super::*;
use crate::engine::events::EngineEvent;
use crate::engine::types::{SiteId, TunnelKey};
use crate::store::Mean;

const FROM: i64 = 1_800_000_000 / 3_600 * 3_600;

fn index(number: u8) -> UplinkIndex {
    UplinkIndex::new(number).expect("a small number")
}

fn path(local: u8) -> PathKey {
    PathKey { site: SiteId([7; 16]), tunnel: TunnelKey { local: index(local), remote: index(0) } }
}

fn history(to: i64) -> SpanHistory {
    let span = Span::new(FROM, to);
    let sums = |step, known_ms, up_ms, rtt: f64| PathSums {
        step,
        known_ms,
        up_ms,
        rtt: Mean { sum: rtt * up_ms as f64, weight: up_ms as f64 },
        rtt_min_ms: Some(rtt / 2.0),
        rtt_max_ms: Some(rtt * 2.0),
        sent_bytes: 10,
        ..PathSums::default()
    };
    let of = |local, steps| PathHistory {
        path: path(local),
        site_name: "berlin".into(),
        remote_name: (local == 0).then(|| "cable".into()),
        steps,
    };
    SpanHistory {
        span,
        paths: vec![
            of(0, vec![sums(0, 60_000, 60_000, 10.0), sums(1, 30_000, 0, 0.0), sums(3, 60_000, 30_000, 40.0)]),
            of(1, vec![sums(0, 60_000, 0, 0.0)]),
        ],
        uplinks: [(0, 60_000), (1, 0), (3, 45_000)]
            .map(|(step, up_ms)| UplinkSums { uplink: index(0), step, known_ms: 60_000, up_ms })
            .to_vec(),
        classes: Vec::new(),
        uplink_names: vec![(index(0), "fibre".into())],
        begins: Some(FROM),
        events_begin_ns: None,
    }
}

fn stored(second: i64, event: EngineEvent) -> StoredEvent {
    StoredEvent { id: second, time_unix_ns: (FROM + second) * 1_000_000_000, event }
}

fn moved(second: i64, class: &str, from: Option<u8>, to: u8, reason: MoveReason) -> StoredEvent {
    let mut event = EngineEvent::new(EventKind::ClassMoved, "moved").with_path(path(to));
    event.from_path = from.map(path);
    event.class = Some(class.into());
    event.details = serde_json::json!({ "reason": reason });
    stored(second, event)
}

fn happened(second: i64, kind: EventKind, local: u8, cause: Option<Cause>) -> StoredEvent {
    let mut event = EngineEvent::new(kind, "happened").with_path(path(local));
    event.details = serde_json::json!({ "cause": cause });
    stored(second, event)
}

#[test]
fn unknown_time_is_neither_up_nor_down_and_means_are_of_the_time_up() {
    let view = of(history(FROM + 240), &[]);
    let path = &view.paths[0];
    let up = &path.availability;
    assert_eq!((up.up_s, up.down_s, up.unknown_s), (90.0, 60.0, 90.0));
    assert_eq!(up.availability_pct, Some(60.0));
    // 60 s at 10 ms and 30 s at 40 ms.
    assert_eq!(path.quality.rtt_ms, Some(20.0));
    assert_eq!((path.quality.rtt_min_ms, path.quality.rtt_max_ms), (Some(0.0), Some(80.0)));
    assert_eq!((path.local_uplink.as_str(), path.remote_uplink.as_str(), path.sent_bytes), ("fibre", "cable", 30));
    assert_eq!(path.series.len(), 3, "nothing is made up for the step of which nothing is known");
    assert_eq!(path.series[1].availability.unknown_s, 30.0);
    let dead = &view.paths[1];
    assert_eq!((dead.availability.availability_pct, dead.quality.rtt_ms), (Some(0.0), None));
    assert_eq!((dead.local_uplink.as_str(), dead.remote_uplink.as_str()), ("1", "0"), "numbers where no name is known");
    let provider = &view.providers[0];
    assert_eq!(provider.name, "fibre");
    assert_eq!(
        (provider.availability.up_s, provider.availability.down_s, provider.availability.unknown_s),
        (105.0, 75.0, 60.0)
    );
    assert_eq!(provider.quality.rtt_ms, Some(20.0));
}

#[test]
fn each_failover_has_the_cause_that_befell_the_path_it_left() {
    use EventKind::{PathDegraded, PathDown, PathSilent};
    let events = [
        moved(1, "voice", None, 0, MoveReason::First),
        happened(10, PathSilent, 0, None),
        happened(10, PathDown, 0, Some(Cause::Silent)),
        moved(10, "voice", Some(0), 1, MoveReason::Down),
        moved(10, "bulk", Some(0), 1, MoveReason::Down),
        moved(40, "voice", Some(1), 0, MoveReason::Better),
        happened(50, PathDegraded, 0, None),
        moved(52, "voice", Some(0), 1, MoveReason::Worse),
        moved(400, "voice", Some(1), 0, MoveReason::Worse),
        happened(500, PathDown, 0, Some(Cause::UplinkDown)),
        moved(500, "voice", Some(0), 1, MoveReason::Down),
        // An event of an earlier version, without details.
        stored(600, EngineEvent::new(PathDown, "x").with_path(path(1))),
    ];
    let view = of(history(FROM + 3_600), &events);
    let told: Vec<(&str, &str, &str)> = view
        .failovers
        .iter()
        .map(|failover| (failover.class.as_str(), failover.from.as_str(), failover.cause.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("voice", "fibre→cable", "no answer to probes"),
            ("bulk", "fibre→cable", "no answer to probes"),
            ("voice", "1→0", "the other path was better for long enough"),
            ("voice", "fibre→cable", "its quality fell below what is good enough"),
            ("voice", "1→0", "it broke the class's SLA"),
            ("voice", "fibre→cable", "the uplink is down"),
        ]
    );
    let most = &view.moves[0];
    assert_eq!(
        (most.count, most.cause.as_str(), most.classes.as_slice()),
        (2, "no answer to probes", &["voice".to_owned(), "bulk".into()][..])
    );
    assert_eq!(
        view.paths[0].falls,
        BTreeMap::from([("no answer to probes".into(), 1), ("the uplink is down".into(), 1)])
    );
    assert_eq!(view.paths[1].falls, BTreeMap::from([("the path went down".into(), 1)]));
}

#[test]
fn a_span_has_few_steps_and_whole_intervals() {
    for length in [1, 59, 3_600, 86_400, 7 * 86_400, 31 * 86_400, 366 * 86_400, LONGEST_S] {
        let span = ReportQuery { since: FROM + 17, until: FROM + 17 + length }.span().expect("a span");
        let steps = (span.to - span.from + span.step - 1) / span.step;
        assert!((1..=181).contains(&steps), "{length} s make {steps} steps");
        assert!(span.from <= FROM + 17 && FROM + 17 - span.from < span.step.max(60), "{span:?}");
    }
    assert!(ReportQuery { since: 5, until: 5 }.span().is_err());
    assert!(ReportQuery { since: -5, until: 5 }.span().is_err());
    assert!(ReportQuery { since: 0, until: LONGEST_S + 1 }.span().unwrap_err().contains("ten years"));
}
