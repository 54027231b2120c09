//! Which fault a gap comes from, and whether it may last so long.

use std::time::Duration;

use super::plan::{Fault, Step};
use crate::bed::Cut;

/// A fault as it was made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Made {
    /// The plan's step.
    pub step: Step,
    /// When it began, Unix time in ns; before anything of it was done.
    pub start_ns: u64,
    /// When it was over, Unix time in ns; after everything of it was undone. `u64::MAX` while it isn't.
    pub end_ns: u64,
}

/// An interruption of one stream in which packets were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamGap {
    /// Name of the stream's class.
    pub class: &'static str,
    /// Sending site.
    pub from: &'static str,
    /// Receiving site.
    pub to: &'static str,
    /// Arrival of the last packet before it, Unix time in ns.
    pub start_ns: u64,
    /// To the arrival of the next packet.
    pub length: Duration,
    /// Packets lost in it.
    pub lost: u64,
}

/// What to make of a gap.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// A fault explains it, and it was short enough.
    Explained(Made),
    /// A fault explains it, but it lasted longer than this.
    TooLong(Made, Duration),
    /// No fault explains it.
    Unexplained,
}

impl Verdict {
    /// Whether the run fails by it.
    pub fn is_bad(&self) -> bool {
        !matches!(self, Self::Explained(_))
    }
}

/// A packet's interval and the machine's hesitation: a gap that a fault makes begins no earlier before it.
const BEFORE_NS: u64 = 60_000_000;
/// A daemon that started anew takes over, and one that was paused reads what it missed, within this time.
const RECOVERY: Duration = Duration::from_secs(2);

/// How long a gap may last that this fault causes while both daemons are well, and for how long after its end the fault
/// still explains one. `None`: it must cost nothing.
///
/// A path is left after the detection time, 150 ms and what the delay varies by, up to twice as much on a path that
/// loses packets. The machine that runs all of this at once gets as much again.
fn bounds(fault: Fault) -> Option<[Duration; 2]> {
    let ms = Duration::from_millis;
    Some(match fault {
        Fault::Cut(Cut::Carrier) | Fault::Unplug => [ms(400), ms(500)],
        Fault::Cut(_) | Fault::Flap => [ms(500), ms(500)],
        // What a slow line has taken over arrives late when it is quick again, and is not lost.
        Fault::Loss(_) | Fault::Latency(_) => [ms(800), ms(1_000)],
        // The peers' tunnels follow the first packet from the new address, and routes a netlink message.
        Fault::Address | Fault::Gateway => [ms(1_500), ms(3_000)],
        // Until the next probe comes out of the new mapping.
        Fault::Rebind => [ms(500), ms(1_000)],
        Fault::Kill | Fault::Pause | Fault::Restart | Fault::Reload | Fault::FullDisk | Fault::Clock(_) => return None,
    })
}

/// Finds the fault that a gap comes from: of those that were there when it began, the one that began last.
///
/// A fault that begins during the gap may lengthen it by its own bound: it may meet the path that the flow has just found.
/// Where a daemon had trouble at one of the ends meanwhile, the gap may be twice as long: one end's probes serve both.
pub fn explain(gap: &StreamGap, made: &[Made]) -> Verdict {
    let end_ns = gap.start_ns + gap.length.as_nanos() as u64;
    let at_ends = || made.iter().filter(|one| [gap.from, gap.to].contains(&one.step.site));
    let of_lines = at_ends().filter_map(|one| Some((one, bounds(one.step.fault)?)));
    let (mut cause, mut bound): (Option<&Made>, Duration) = (None, Duration::ZERO);
    let mut more = Duration::ZERO;
    for (one, [longest, after]) in of_lines {
        let over_ns = one.end_ns.saturating_add(after.as_nanos() as u64);
        if one.start_ns > gap.start_ns + BEFORE_NS {
            more += if one.start_ns <= end_ns { longest } else { Duration::ZERO };
        } else if gap.start_ns <= over_ns && cause.is_none_or(|cause| cause.start_ns < one.start_ns) {
            (cause, bound) = (Some(one), longest);
        }
    }
    let Some(cause) = cause else { return Verdict::Unexplained };
    let lame = at_ends().any(|one| {
        !one.step.fault.is_of_line()
            && one.start_ns <= end_ns
            && gap.start_ns <= one.end_ns.saturating_add(RECOVERY.as_nanos() as u64)
    });
    let bound = if lame { (bound + more) * 2 } else { bound + more };
    if gap.length <= bound { Verdict::Explained(*cause) } else { Verdict::TooLong(*cause, bound) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const START: u64 = 1_000_000 * MS;

    fn gap(at_ms: u64, length_ms: u64) -> StreamGap {
        let length = Duration::from_millis(length_ms);
        StreamGap { class: "voice", from: "a", to: "b", start_ns: START + at_ms * MS, length, lost: 3 }
    }

    fn made(site: &'static str, fault: Fault, from_ms: u64, to_ms: u64) -> Made {
        let uplink = fault.is_of_line().then_some("isp1");
        let lasts = Duration::from_millis(to_ms - from_ms);
        let step = Step { at: Duration::from_millis(from_ms), lasts, site, uplink, fault };
        Made { step, start_ns: START + from_ms * MS, end_ns: START + to_ms * MS }
    }

    const CUT: Fault = Fault::Cut(Cut::Silent);

    #[test]
    fn a_gap_at_a_cut_is_explained_by_it_and_one_elsewhere_or_later_is_not() {
        let cut = made("a", CUT, 1_000, 4_000);
        assert_eq!(explain(&gap(990, 170), &[cut]), Verdict::Explained(cut));
        assert_eq!(explain(&gap(4_100, 170), &[cut]), Verdict::Explained(cut));
        assert_eq!(explain(&gap(4_600, 170), &[cut]), Verdict::Unexplained);
        assert_eq!(explain(&gap(700, 170), &[cut]), Verdict::Unexplained);
        assert_eq!(explain(&gap(990, 170), &[made("c", CUT, 1_000, 4_000)]), Verdict::Unexplained);
    }

    #[test]
    fn a_gap_that_lasts_too_long_is_told_with_its_bound() {
        let cut = made("b", CUT, 1_000, 4_000);
        assert_eq!(explain(&gap(990, 501), &[cut]), Verdict::TooLong(cut, Duration::from_millis(500)));
        // One end's daemon alone: twice the time, and not for ever.
        let killed = made("a", Fault::Kill, 500, 2_000);
        assert_eq!(explain(&gap(990, 999), &[killed, cut]), Verdict::Explained(cut));
        assert!(explain(&gap(990, 1_001), &[killed, cut]).is_bad());
    }

    #[test]
    fn trouble_of_a_daemon_alone_explains_nothing() {
        for fault in [Fault::Kill, Fault::Pause, Fault::Restart, Fault::Reload, Fault::FullDisk, Fault::Clock(1)] {
            assert_eq!(explain(&gap(1_500, 50), &[made("a", fault, 1_000, 4_000)]), Verdict::Unexplained, "{fault:?}");
        }
    }

    #[test]
    fn of_several_faults_the_last_one_is_the_cause_and_one_that_begins_in_the_gap_lengthens_it() {
        let (first, second) = (made("a", CUT, 1_000, 4_000), made("b", CUT, 1_400, 3_000));
        assert_eq!(explain(&gap(990, 900), &[first, second]), Verdict::Explained(first));
        assert_eq!(explain(&gap(990, 1_001), &[first, second]), Verdict::TooLong(first, Duration::from_secs(1)));
        assert!(explain(&gap(990, 900), &[first, made("c", CUT, 1_400, 3_000)]).is_bad());
        assert_eq!(explain(&gap(1_390, 300), &[first, second]), Verdict::Explained(second));
    }
}
