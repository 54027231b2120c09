use std::collections::BTreeMap;

use super::super::output::Output;
use super::super::tests::{fits, tunnel};
use super::super::{Cli, Command, Format};
use super::*;
use crate::api::views::*;
use crate::engine::sets::MoveReason;
use crate::engine::types::{SiteId, UplinkIndex};
use clap::Parser;

const DAY: i64 = 86_400;
/// 2026-01-01.
const SINCE: i64 = 1_767_225_600;

fn quality() -> QualityView {
    QualityView {
        rtt_ms: Some(123.456),
        rtt_min_ms: Some(100.0),
        rtt_max_ms: Some(1_234.5),
        jitter_forward_ms: Some(10.25),
        jitter_backward_ms: Some(0.5),
        loss_forward_pct: Some(12.5),
        loss_backward_pct: None,
        mos: Some(4.1),
    }
}

fn step(number: i64, down_ms: i64) -> StepView {
    StepView {
        time_unix_s: SINCE + number * 900,
        availability: AvailabilityView::new(900, 900_000, 900_000 - down_ms),
        quality: quality(),
    }
}

/// A day in which the daemon was away for an hour.
pub(crate) fn report_view(site: &str, class: &str) -> ReportView {
    let length = DAY;
    ReportView {
        version: VERSION,
        site_name: Some("branch-1".into()),
        since_unix_s: SINCE,
        until_unix_s: SINCE + DAY,
        step_s: 900,
        history_begins_unix_s: Some(SINCE - DAY),
        events_begin_unix_s: Some(SINCE - DAY),
        paths: vec![PathReport {
            site: SiteId([3; 16]),
            site_name: site.into(),
            tunnel: tunnel(0, 1),
            local_uplink: "fibre".into(),
            remote_uplink: "lte".into(),
            availability: AvailabilityView::new(length, 82_800_000, 82_799_900),
            quality: quality(),
            sent_bytes: 1_234_567_890,
            received_bytes: 5,
            falls: BTreeMap::from([("no answer to probes".into(), 3)]),
            series: vec![step(0, 0), step(1, 100), step(6, 900_000)],
        }],
        providers: vec![ProviderReport {
            uplink: UplinkIndex::new(0).expect("a small number"),
            name: "fibre".into(),
            availability: AvailabilityView::new(length, 82_800_000, 82_800_000),
            quality: quality(),
            sent_bytes: 1_234_567_890,
            received_bytes: 5,
            series: vec![step(0, 0)],
        }],
        classes: vec![ClassReport {
            site: SiteId([3; 16]),
            site_name: site.into(),
            class: class.into(),
            sla: "latency 150 ms, loss 1 %".into(),
            compliance: ComplianceView::new(length, 82_000_000, 700_000, 100_000),
            series: vec![ComplianceStepView {
                time_unix_s: SINCE,
                compliance: ComplianceView::new(900, 800_000, 100_000, 0),
            }],
        }],
        moves: vec![MovesView {
            site_name: site.into(),
            from: "fibre→lte".into(),
            cause: "no answer to probes".into(),
            count: 3,
            classes: vec![class.into(), "default".into()],
        }],
        failovers: vec![FailoverView {
            time_unix_ns: (SINCE + 900) * 1_000_000_000,
            site_name: site.into(),
            class: class.into(),
            from: "fibre→lte".into(),
            to: "lte→fibre".into(),
            reason: Some(MoveReason::Down),
            cause: "no answer to probes".into(),
        }],
    }
}

#[test]
fn the_text_fits_a_terminal_and_rounds_no_outage_away() {
    let text = text::render(&report_view("headquarters", "voip-video"), &Output::for_file(Format::Table));
    fits(&text);
    assert!(
        text.starts_with("report of branch-1: 2026-01-01 00:00 to 2026-01-02 00:00 UTC (1d)\n\nproviders\n"),
        "{text}"
    );
    let row = |begin: &str| {
        let line =
            text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin} is not in {text}"));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("fibre ")[1..4], ["100.000", "-", "1h"], "{text}");
    assert_eq!(row("headquarters fibre→lte")[2..6], ["99.999", "<1s", "1h", "3"], "0.1 s of downtime is some: {text}");
    assert_eq!(row("headquarters voip-video")[2..6], ["99.033", "11m40s", "1m40s", "1h"], "{text}");
    assert!(text.contains("latency 150 ms, loss 1 %"), "{text}");
    let long = text::render(
        &report_view("a-site-with-a-name-of-32-letters", "a-class-with-a-name-of-32-letter"),
        &Output::for_file(Format::Table),
    );
    fits(&long);
}

#[test]
fn what_is_unknown_is_said() {
    let empty = ReportView {
        history_begins_unix_s: None,
        paths: Vec::new(),
        providers: Vec::new(),
        classes: Vec::new(),
        moves: Vec::new(),
        failovers: Vec::new(),
        ..report_view("hq", "default")
    };
    let text = text::render(&empty, &Output::for_file(Format::Table));
    assert!(text.contains("note: nothing was recorded yet") && text.lines().count() == 2, "{text}");
    let young = ReportView {
        history_begins_unix_s: Some(SINCE + 7_200),
        events_begin_unix_s: Some(SINCE + 36_000),
        ..report_view("hq", "default")
    };
    let text = text::render(&young, &Output::for_file(Format::Table));
    assert!(text.contains("begins at 2026-01-01 02:00: what was before is unknown"), "{text}");
    assert!(text.contains("events are kept since 2026-01-01 10:00"), "{text}");
    assert_eq!(
        (share(None), share(Some(100.0)), share(Some(99.999_999))),
        ("-".into(), "100.000".into(), "99.999".into())
    );
    let unknown = AvailabilityView::new(100, 0, 0);
    assert_eq!((unknown.availability_pct, unknown.down_s, unknown.unknown_s), (None, 0.0, 100.0));
}

#[test]
fn the_page_stands_by_itself_and_takes_no_name_for_markup() {
    let page = html::render(&report_view("<script>alert(1)</script>&\"'", "voip-video"));
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link", "<img"] {
        assert!(!page.contains(outside), "{outside} is in the page");
    }
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39;"));
    for needed in ["width=device-width", "prefers-color-scheme:dark", "<svg", "role=\"img\"", "aria-label"] {
        assert!(page.contains(needed), "{needed} is not in the page");
    }
    for tag in ["table", "figure", "svg", "details", "div", "tr", "td", "th", "span", "p"] {
        let (opened, closed) = (format!("<{tag}"), format!("</{tag}>"));
        let opened = page.match_indices(&opened).filter(|(at, _)| {
            let next = page.as_bytes().get(at + opened.len());
            next.is_some_and(|next| matches!(next, b' ' | b'>'))
        });
        assert_eq!(opened.count(), page.matches(&closed).count(), "{tag}");
    }
    for numbers in ["NaN", "inf", "None", "Some("] {
        assert!(!page.contains(numbers), "{numbers} is in the page");
    }
}

#[test]
fn the_options_name_a_span_that_has_begun() {
    let query = |arguments: &[&str]| {
        let cli = Cli::try_parse_from([&["sdwan", "report"], arguments].concat()).expect("the options are right");
        let Command::Report(args) = cli.command else { panic!("another command") };
        args.query((SINCE + 2 * DAY) * 1_000_000_000)
    };
    let span = |arguments: &[&str]| {
        let query = query(arguments).expect("a span");
        (query.since - SINCE, query.until - SINCE)
    };
    assert_eq!(span(&[]), (DAY, 2 * DAY));
    assert_eq!(span(&["--since", "2026-01-01", "--until", "2026-01-02T12:00"]), (0, DAY + DAY / 2));
    assert_eq!(span(&["--since", "2026-01-01", "--until", "2030-01-01"]), (0, 2 * DAY), "no further than now");
    assert!(query(&["--since", "yesterday"]).unwrap_err().to_string().contains("write how long ago"));
    let backwards = query(&["--since", "1h", "--until", "2h"]).expect("two moments").span().unwrap_err();
    assert!(backwards.contains("ends before it begins"), "{backwards}");
}

#[test]
fn a_report_reads_back() {
    let view = report_view("hq", "default");
    let text = serde_json::to_string(&view).expect("JSON");
    assert_eq!(serde_json::from_str::<ReportView>(&text).expect("reads back"), view);
}
