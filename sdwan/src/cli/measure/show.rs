//! How a STAMP session is shown.

use std::net::SocketAddr;

use serde::Serialize;

use crate::cli::output::{Output, Tone, number};
use crate::measure::stamp::answer::Mode;
use crate::measure::stamp::send::{Ended, Outside, Plan, Progress};
use crate::measure::stamp::session::Ignored;
use crate::measure::stamp::session::directions::Numbering;
use crate::measure::stamp::session::question::Questions;
use crate::measure::stamp::session::reading::{TlvState, Unreadable};
use crate::measure::stamp::session::samples::Figures;
use crate::measure::stamp::session::summary::{Estimate, Summary};

/// A session as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: u32,
    target: SocketAddr,
    local: SocketAddr,
    interface: Option<String>,
    authenticated: bool,
    session: u16,
    payload_bytes: usize,
    dscp_sent: u8,
    interval_ms: f64,
    timeout_ms: f64,
    duration_s: f64,
    #[serde(flatten)]
    pub summary: Summary,
    refused: Refused,
}

/// Packets that were no answer, by reason, and questions that didn't leave.
#[derive(Debug, Serialize)]
struct Refused {
    foreign: u64,
    truncated: u64,
    bad_hmac: u64,
    other_session: u64,
    not_sent: u64,
}

impl From<Outside> for Refused {
    fn from(outside: Outside) -> Self {
        let Outside { foreign, truncated, bad_hmac, other_session, refused } = outside;
        Self { foreign, truncated, bad_hmac, other_session, not_sent: refused }
    }
}

impl Report {
    pub fn new(version: u32, plan: &Plan, questions: &Questions, ended: &Ended) -> Self {
        let form = questions.form();
        Self {
            version,
            target: plan.target,
            local: ended.local,
            interface: plan.interface.clone(),
            authenticated: form.mode == Mode::Authenticated,
            session: form.session,
            payload_bytes: questions.length(),
            dscp_sent: plan.dscp,
            interval_ms: plan.interval.as_secs_f64() * 1e3,
            timeout_ms: plan.timeout.as_secs_f64() * 1e3,
            duration_s: ended.duration.as_secs_f64(),
            summary: ended.session.summary(ended.clock, form.ptp),
            refused: ended.outside.into(),
        }
    }
}

/// A line about one packet.
pub(super) fn line(progress: &Progress) -> String {
    match progress {
        Progress::Answer(sample) => format!(
            "{:>6}  rtt {:.3} ms  there {:+.3} ms  back {:+.3} ms  answer {}, took {:.3} ms",
            sample.sequence,
            milliseconds(sample.rtt.as_nanos() as f64),
            milliseconds(sample.forward_ns as f64),
            milliseconds(sample.backward_ns as f64),
            sample.reflector_sequence,
            milliseconds(sample.dwell.as_nanos() as f64),
        ),
        Progress::Ignored(sequence, why) => format!(
            "{sequence:>6}  {}",
            match why {
                Ignored::Unknown => "an answer to no question of ours",
                Ignored::Duplicate => "the same answer again",
                Ignored::DuplicateQuestion => "answered again, with another number",
                Ignored::Late => "answered after the timeout",
                Ignored::Implausible => "answered with times that contradict each other",
            }
        ),
        Progress::Foreign(source, why) => format!(
            "     -  a packet from {source} {}",
            match why {
                None => "which was not asked",
                Some(Unreadable::Truncated) => "that is too short",
                Some(Unreadable::BadHmac) => "with a wrong HMAC",
                Some(Unreadable::OtherSession) => "of another session",
            }
        ),
        Progress::Refused(sequence) => format!("{sequence:>6}  not sent: the kernel refused it"),
    }
}

fn milliseconds(nanoseconds: f64) -> f64 {
    nanoseconds / 1e6
}

/// The summary.
pub(super) fn render(report: &Report, output: &Output) -> String {
    let summary = &report.summary;
    let mut text = String::from("\n");
    let tone = match summary.lost {
        0 => Tone::Plain,
        _ if summary.answered == 0 => Tone::Bad,
        _ => Tone::Warning,
    };
    let lost = output.paint(&format!("{} lost ({:.2} %)", summary.lost, summary.lost_pct), tone);
    text.push_str(&format!("{} sent, {} answered, {lost}", summary.sent, summary.answered));
    for (count, what) in [
        (summary.duplicates, "duplicate"),
        (summary.reordered, "reordered"),
        (summary.late, "late"),
        (summary.unknown, "forged or foreign"),
        (summary.implausible, "implausible"),
        (report.refused.foreign, "from elsewhere"),
        (report.refused.truncated, "truncated"),
        (report.refused.bad_hmac, "with a wrong HMAC"),
        (report.refused.other_session, "of another session"),
        (report.refused.not_sent, "not sent"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text.push('\n');
    if summary.answered == 0 {
        text.push_str(&format!(
            "no answer from {}: is there a reflector on this port, in the same mode and with the same key, and does the \
             way back exist?\n",
            report.target
        ));
        return text;
    }
    text.push_str(&loss_text(summary));
    text.push('\n');
    text.push_str(&figures(summary, output));
    text.push('\n');
    text.push_str(&details(report));
    text
}

fn loss_text(summary: &Summary) -> String {
    match &summary.loss {
        Some(loss) => {
            let mut text = format!(
                "loss there {:.2} % ({} of {}), back {:.2} % ({} of {})",
                loss.forward.pct,
                loss.forward.lost,
                loss.forward.sent,
                loss.backward.pct,
                loss.backward.lost,
                loss.backward.sent
            );
            if summary.lost_unknown > 0 {
                text.push_str(&format!(", {} of unknown direction", summary.lost_unknown));
            }
            text.push('\n');
            text
        }
        None if summary.numbering == Numbering::Stateless => {
            "loss by direction unknown: the reflector is stateless\n".into()
        }
        None => "loss by direction unknown: nothing shows that the reflector counts\n".into(),
    }
}

fn figures(summary: &Summary, output: &Output) -> String {
    let mut table = output.table(&["MS", "MIN", "MEDIAN", "P95", "P99", "MAX"]);
    let mut row = |name: &str, figures: Option<Figures>| {
        let Some(figures) = figures else { return };
        let mut cells = vec![name.into()];
        cells.extend(
            [figures.min, figures.median, figures.p95, figures.p99, figures.max]
                .map(|value| number(format!("{value:.3}"))),
        );
        table.add_row(cells);
    };
    row("round trip", summary.rtt_ms);
    if let Some(both) = &summary.variation {
        row("variation there", both.forward.change_ms);
        row("variation back", both.backward.change_ms);
    }
    let mark = if summary.one_way_synchronized { "" } else { " (unsynchronised)" };
    if let Some(both) = &summary.one_way_ms {
        row(&format!("one way there{mark}"), Some(both.forward));
        row(&format!("one way back{mark}"), Some(both.backward));
    }
    row("reflector took", summary.dwell_ms);
    output.text(&mut table)
}

fn details(report: &Report) -> String {
    let summary = &report.summary;
    let mut lines: Vec<String> = Vec::new();
    if let Some(both) = &summary.variation {
        lines.push(format!(
            "jitter (RFC 3550)  there {:.3} ms, back {:.3} ms",
            both.forward.jitter_ms, both.backward.jitter_ms
        ));
    }
    let number = |value: Option<u8>| value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
    lines.push(format!(
        "TTL at the end     there {}, back {}",
        number(summary.ttl.forward),
        number(summary.ttl.backward)
    ));
    let refused =
        if summary.dscp.refused == Some(true) { "; the reflector doesn't allow the one asked for" } else { "" };
    lines.push(format!(
        "DSCP at the end    there {}, back {}{refused}",
        number(summary.dscp.forward),
        number(summary.dscp.backward)
    ));
    if let Some(reflector) = &summary.reflector_clock {
        lines.push(format!(
            "clock              ours {}, the reflector's {}",
            clock(&summary.sender_clock),
            clock(reflector)
        ));
    }
    let counts = match summary.numbering {
        Numbering::Stateful => "stateful",
        Numbering::Stateless => "stateless",
        Numbering::Unknown => "numbers equal to ours",
    };
    let session = if summary.session_returned == Some(false) { ", knows no session identifiers" } else { "" };
    lines.push(format!("reflector          {counts}{session}"));
    match summary.tlvs {
        TlvState::Absent | TlvState::Read => {}
        TlvState::Malformed => lines.push("TLVs               the reflector found one malformed".into()),
        TlvState::RefusedByReflector => lines.push("TLVs               the reflector can't authenticate ours".into()),
        TlvState::BadHmac => lines.push("TLVs               not used: their HMAC is wrong or missing".into()),
    }
    lines.join("\n") + "\n"
}

fn clock(estimate: &Estimate) -> String {
    let state = if estimate.synchronized { "synchronised" } else { "not synchronised" };
    format!("{state} ±{:.3} ms ({})", estimate.error_ms, estimate.format)
}
