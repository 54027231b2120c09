//! How the rate stays as flows, sites, and the share of new flows grow: LAN → tunnel, end to end.

use anyhow::{Context, Result};
use sdwan::dataplane::{Dataplane, Reader};
use sdwan_common::abi::capacity;

use super::desired::Size;
use super::lane::{Carried, Lane};
use super::packets::{Arrivals, Course, SMALL, outbound};
use super::raw::PLAN;
use super::rounds::{Rounds, count};
use super::stage::Stage;
use super::ways::Way;
use super::{FLOWS, ROOM, fill};
use crate::figures::{Figures, median};

/// On a table with room for all.
const FLOW_COUNTS: [(&str, Arrivals); 4] = [
    ("datapath.forward_ours_1_flow_pps", Arrivals::Uniform(1)),
    ("datapath.forward_ours_1k_flows_pps", Arrivals::Uniform(1_000)),
    ("datapath.forward_ours_1m_flows_pps", Arrivals::Uniform(FLOWS)),
    ("datapath.forward_ours_1m_flows_zipf_pps", Arrivals::Zipf(FLOWS)),
];
/// Flows in percent of the table's size: rate, and share of the packets whose flow was known.
const TABLE: [(&str, &str, u64); 2] = [
    ("datapath.table_90_pct_pps", "datapath.table_90_pct_hit_share", 90),
    ("datapath.table_150_pct_pps", "datapath.table_150_pct_hit_share", 150),
];
/// As many flows over few sites and over many.
const SITES: [(&str, Size); 2] =
    [("datapath.forward_ours_3_sites_pps", Size::SMALL), ("datapath.forward_ours_10k_sites_pps", Size::MANY_SITES)];
const SITE_FLOWS: u64 = 39_996;
const CHURN: [(&str, &str); 4] = [
    ("datapath.churn_pps", "packets/s"),
    ("datapath.churn_new_flows_per_s", "flows/s"),
    ("datapath.churn_hit_share", ""),
    ("datapath.churn_lost_packets", "packets"),
];
/// New flows per second of the churn.
const NEW_FLOWS: f64 = 100_000.0;

/// The names of all figures, with their units.
pub fn names() -> Vec<(&'static str, &'static str)> {
    let rates = FLOW_COUNTS.iter().map(|(name, _)| *name).chain(SITES.iter().map(|(name, _)| *name));
    let tables = TABLE.iter().flat_map(|(rate, share, _)| [(*rate, "packets/s"), (*share, "")]);
    rates.map(|name| (name, "packets/s")).chain(tables).chain(CHURN).collect()
}

/// Measures all of it.
///
/// # Errors
/// When our data path can't be made.
pub fn run(stage: &Stage, figures: &mut Figures) -> Result<()> {
    let lane = Lane::outbound(stage)?;
    stage.with([Size { flows: ROOM, ..Size::SMALL }], |[ours]| {
        fill(stage, ours, FLOWS)?;
        let mut rounds = Rounds::new(FLOW_COUNTS.iter().map(|(name, _)| *name).collect());
        rounds.each(|name| {
            let (_, arrivals) = FLOW_COUNTS.iter().find(|(known, _)| *known == name).expect("every name has arrivals");
            Ok(carry(stage, &lane, ours, *arrivals, PLAN / 8)?.0.rate())
        });
        rounds.into_figures(figures, "packets/s");
        Ok(())
    })?;
    for (rate, share, percent) in TABLE {
        let flows = u64::from(capacity::FLOWS) * percent / 100;
        let values = several(stage, |ours| carry(stage, &lane, ours, Arrivals::Uniform(flows), 2 * PLAN));
        give(figures, &[(rate, "packets/s"), (share, "")], values, |(carried, hits)| vec![carried.rate(), *hits]);
    }
    let mut every = None;
    let values = several(stage, |ours| {
        // So many packets for a new flow that these come at their rate: by the rate of the measurement before.
        let (mut carried, mut hits) = carry(stage, &lane, ours, Arrivals::Churn(every.unwrap_or(10)), PLAN / 8)?;
        let right = (carried.rate() / NEW_FLOWS).round().max(1.0) as u64;
        if every.is_none() {
            (carried, hits) = carry(stage, &lane, ours, Arrivals::Churn(right), PLAN / 8)?;
        }
        let was = every.replace(right).unwrap_or(right);
        Ok((carried, hits, carried.rate() / was as f64))
    });
    give(figures, &CHURN, values, |(carried, hits, new)| {
        vec![carried.rate(), *new, *hits, carried.entered.saturating_sub(carried.arrived) as f64]
    });
    stage.with(SITES.map(|(_, size)| size), |dataplanes| {
        let mut rounds = Rounds::new(SITES.iter().map(|(name, _)| *name).collect());
        rounds.each(|name| {
            let at = SITES.iter().position(|(known, _)| *known == name).expect("every name has a size");
            let arrivals = Arrivals::Sites { sites: SITES[at].1.sites.into(), flows: SITE_FLOWS };
            Ok(carry(stage, &lane, &mut dataplanes[at], arrivals, PLAN / 2)?.0.rate())
        });
        rounds.into_figures(figures, "packets/s");
        Ok(())
    })
}

/// Sends packets through our data path. What was carried, and the share of the packets whose flow was known.
fn carry(stage: &Stage, lane: &Lane, ours: &mut Dataplane, arrivals: Arrivals, warm: u32) -> Result<(Carried, f64)> {
    let reader = Reader::open(ours.layout())?;
    let mut course = Course::new(arrivals);
    Way::Ours
        .during(stage, ours, || {
            lane.measure_while(&outbound(SMALL), warm, || course.next_outbound(), || counts(&reader))
        })
        .map(|(carried, before, after)| {
            let (packets, flows) = (after.0 - before.0, after.1 - before.1);
            (carried, 1.0 - flows as f64 / packets.max(1) as f64)
        })
}

/// Packets and new flows of all classes.
fn counts(reader: &Reader) -> Result<(u64, u64)> {
    let classes = (0..capacity::CLASSES as u16).map(|class| reader.class_counters(class));
    let mut sum = (0, 0);
    for counters in classes {
        let counters = counters?;
        sum = (sum.0 + counters.packets, sum.1 + counters.flows);
    }
    Ok(sum)
}

/// Measures again and again on one data path.
fn several<T>(stage: &Stage, mut measure: impl FnMut(&mut Dataplane) -> Result<T>) -> Result<Vec<T>> {
    stage.with([Size::SMALL], |[ours]| (0..count()).map(|_| measure(ours)).collect())
}

/// Adds the medians of what each measurement has.
fn give<T>(figures: &mut Figures, names: &[(&str, &str)], values: Result<Vec<T>>, of: impl Fn(&T) -> Vec<f64>) {
    let rows = match values {
        Ok(values) => values.iter().map(of).collect::<Vec<_>>(),
        Err(error) => {
            for (name, unit) in names {
                eprintln!("        {name}: {error:#}");
                figures.missing(name, unit, format!("{error:#}"));
            }
            return;
        }
    };
    for (at, (name, unit)) in names.iter().enumerate() {
        match median(&rows.iter().map(|row| row[at]).collect::<Vec<_>>()).context("nothing was measured") {
            Ok(value) => {
                eprintln!("        {name}: {value:.3} {unit}");
                figures.add(name, value, unit, rows.len() as u64);
            }
            Err(error) => figures.missing(name, unit, error.to_string()),
        }
    }
}
