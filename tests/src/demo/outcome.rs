//! From what happened to figures and words.

use std::time::Duration;

use crate::figures::Figures;
use crate::traffic::{Gap, HttpReport, Report};

/// What became of voice, one report for each direction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VoiceReport {
    /// From a to b.
    pub there: Report,
    /// From b to a.
    pub back: Report,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// From the daemons' start to all tunnels up and the first user packet through.
    pub converged: Option<Duration>,
    /// When the line was cut, Unix time in ns.
    pub cut_ns: Option<u64>,
    /// When it was mended.
    pub restored_ns: Option<u64>,
    /// Interruptions of voice by the cut, of both directions.
    pub failover: Vec<Gap>,
    /// From mending to voice being back on its line.
    pub failback: Option<Duration>,
    /// Voice from start to end.
    pub voice: VoiceReport,
    /// Bytes of the bulk transfer.
    pub bulk_bytes: u64,
    /// How long it ran.
    pub bulk_time: Duration,
    /// The web client.
    pub web: HttpReport,
    /// The whole demo.
    pub total: Duration,
}

impl Outcome {
    /// Longest interruption of voice by the cut, of both directions.
    pub fn failover_gap(&self) -> Option<Duration> {
        self.failover.iter().map(|gap| gap.length).max()
    }

    /// Voice packets lost by the cut, of both directions together.
    pub fn failover_lost(&self) -> u64 {
        self.failover.iter().map(|gap| gap.lost_packets).sum()
    }

    /// Voice packets lost from mending on, of both directions together.
    pub fn failback_lost(&self) -> Option<u64> {
        let restored = self.restored_ns?;
        self.failback?;
        let gaps = self.voice.there.gaps.iter().chain(&self.voice.back.gaps);
        Some(gaps.filter(|gap| gap.start_ns >= restored).map(|gap| gap.lost_packets).sum())
    }

    /// The interruption in words.
    pub fn failover_line(&self) -> String {
        match self.failover_gap() {
            Some(gap) => format!(
                "voice was interrupted for {} ms and lost {} packets (both directions, 20 ms apart each)",
                gap.as_millis(),
                self.failover_lost()
            ),
            None => "voice lost no packet".into(),
        }
    }

    /// The summary, line by line.
    pub fn summary(&self) -> Vec<String> {
        let seconds = |time: Option<Duration>| {
            time.map_or_else(|| "not at all".into(), |time| format!("{:.2} s", time.as_secs_f64()))
        };
        let (there, back) = (&self.voice.there, &self.voice.back);
        let mut lines = vec![
            format!("mesh up                     {}", seconds(self.converged)),
            format!("failover                    {}", self.failover_line()),
            format!("failback                    {} after mending", seconds(self.failback)),
        ];
        if let Some(lost) = self.failback_lost() {
            lines.push(format!("lost since mending          {lost} packets"));
        }
        lines.push(format!(
            "voice a → b, b → a          {} and {} packets, {} and {} lost, median latency {:.1} and {:.1} ms",
            there.sent,
            back.sent,
            there.lost,
            back.lost,
            there.latency.p50.as_secs_f64() * 1e3,
            back.latency.p50.as_secs_f64() * 1e3,
        ));
        let rate = self.bulk_bytes as f64 * 8.0 / 1e6 / self.bulk_time.as_secs_f64().max(0.001);
        lines.push(format!("bulk                        {:.0} MB, {rate:.1} Mbit/s", self.bulk_bytes as f64 / 1e6));
        lines.push(format!(
            "web                         {} pages, median {:.0} ms, {} requests failed",
            self.web.pages,
            self.web.page.p50.as_secs_f64() * 1e3,
            self.web.failed
        ));
        lines.push(format!("total                       {:.1} s", self.total.as_secs_f64()));
        lines
    }

    /// The figures of DESIGN §12.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures::new("demo");
        match self.converged {
            Some(time) => figures.add("demo.converge_s", time.as_secs_f64(), "s", 1),
            None => figures.missing("demo.converge_s", "s", "the mesh didn't come up"),
        }
        if self.cut_ns.is_some() {
            let gap = self.failover_gap().unwrap_or_default();
            figures.add("demo.failover_gap_ms", gap.as_secs_f64() * 1e3, "ms", 1);
            figures.add("demo.failover_lost_packets", self.failover_lost() as f64, "packets", 1);
        } else {
            figures.missing("demo.failover_gap_ms", "ms", "nothing was cut");
            figures.missing("demo.failover_lost_packets", "packets", "nothing was cut");
        }
        match self.failback_lost() {
            Some(lost) => figures.add("demo.failback_lost_packets", lost as f64, "packets", 1),
            None => figures.missing("demo.failback_lost_packets", "packets", "voice didn't return to its line"),
        }
        figures.add("demo.total_s", self.total.as_secs_f64(), "s", 1);
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(start_ns: u64, ms: u64, lost_packets: u64) -> Gap {
        Gap { flow: 0, start_ns, length: Duration::from_millis(ms), lost_sequences: 0..lost_packets, lost_packets }
    }

    fn value(figures: &Figures, name: &str) -> Option<f64> {
        figures.figures().iter().find(|figure| figure.name == name).expect("it is there").value
    }

    #[test]
    fn losses_count_for_the_cut_or_for_the_mending_by_their_time() {
        let mut outcome = Outcome {
            cut_ns: Some(100),
            restored_ns: Some(1_000),
            failover: vec![gap(100, 180, 9), gap(120, 160, 8)],
            failback: Some(Duration::from_secs(9)),
            ..Outcome::default()
        };
        outcome.voice.there.gaps = vec![gap(100, 180, 9), gap(1_200, 40, 1)];
        outcome.voice.back.gaps = vec![gap(120, 160, 8)];
        let figures = outcome.figures();
        assert_eq!(value(&figures, "demo.failover_gap_ms"), Some(180.0));
        assert_eq!(value(&figures, "demo.failover_lost_packets"), Some(17.0));
        assert_eq!(value(&figures, "demo.failback_lost_packets"), Some(1.0));
        assert_eq!(value(&figures, "demo.converge_s"), None);
    }

    #[test]
    fn a_failback_that_did_not_happen_has_no_figure() {
        let outcome = Outcome { cut_ns: Some(1), restored_ns: Some(2), ..Outcome::default() };
        assert_eq!(value(&outcome.figures(), "demo.failback_lost_packets"), None);
        assert_eq!(value(&outcome.figures(), "demo.failover_lost_packets"), Some(0.0));
    }
}
